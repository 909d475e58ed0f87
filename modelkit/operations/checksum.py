"""Digests of files, of the tensors in them, and of what a model means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from modelkit.errors import ModelkitError
from modelkit.operations.checksum_files import Content, Unread, content, files_of, size_of
from modelkit.operations.checksum_known import Known, by_content_address, pointer
from modelkit.operations.checksum_work import Meter, Progress, side_by_side
from modelkit.sums import MODEL, Entry

if TYPE_CHECKING:
    from modelkit.operations.checksum_model import ModelDigest
    from modelkit.operations.checksum_tensors import StoredArray


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file's sha256. `known` is what its own name in a cache says it should be; `rotten` when it is not that."""

    path: str
    size: int
    digest: str
    known: Known | None = None
    rotten: bool = False
    pointer: bool = False  # a git-lfs pointer stands where the file should be

    @property
    def entry(self) -> Entry:
        return Entry(self.path, self.digest, "sha256", "file", self.size)


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """The sha256 of a stored array's bytes."""

    array: StoredArray
    digest: str

    @property
    def entry(self) -> Entry:
        return Entry(self.array.title, self.digest, "sha256", "tensor", self.array.span.size)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """The model digest of one path."""

    path: str
    model: ModelDigest

    @property
    def entry(self) -> Entry:
        return Entry(self.path, self.model.digest, MODEL, "model")


def digest_files(
    paths: Sequence[str],
    workers: int | None = None,
    progress: Progress | None = None,
    left_out: Callable[[str], bool] = lambda _: False,
) -> tuple[list[FileDigest], list[Unread]]:
    """sha256 of every file that `paths` stand for, in their order, and what could not be read.

    `left_out`: files of a folder that are passed over. `progress` is told bytes. Raises CannotAccess where the only
    path is not there; of several, those that are there are read.
    """
    unread: list[Unread] = []
    named = _of_each(paths, lambda path: list(files_of(path, unread)), unread)
    files = [file for path, below in named for file in below if file == path or not left_out(file)]
    known = {file: by_content_address(file) for file in files}

    def work(file: str, meter: Meter) -> Content | Unread:
        says = known[file]
        try:
            return content(file, {"sha256", *([says.algorithm] if says else [])}, meter)
        except ModelkitError as error:
            return Unread(file, str(error))

    digests = []
    for file, found in zip(files, side_by_side(files, work, size_of, workers, progress), strict=True):
        if isinstance(found, Unread):
            unread.append(found)
            continue
        says = known[file]
        rotten = says is not None and found.digests[says.algorithm] != says.digest
        digests.append(FileDigest(file, found.size, found.digests["sha256"], says, rotten, pointer(file) is not None))
    return digests, unread


def _of_each(paths: Sequence[str], work: Callable[[str], T], unread: list[Unread] | None) -> list[tuple[str, T]]:
    """What each path gives; of several, one that gives nothing goes to `unread`, where there is one, or raises."""
    found = []
    for path in paths:
        try:
            found.append((path, work(path)))
        except ModelkitError as error:
            if unread is None or len(paths) == 1:
                raise
            unread.append(Unread(path, str(error), error))
    return found


def digest_tensors(
    paths: Sequence[str],
    workers: int | None = None,
    progress: Progress | None = None,
    unread: list[Unread] | None = None,
) -> list[TensorDigest]:
    """sha256 of every stored array of the models at `paths`.

    Raises what `open_model` raises for the only path, or without `unread`; of several, those that cannot be opened go
    there.
    """
    from modelkit.operations.checksum_tensors import arrays_of, stored_digests
    from modelkit.operations.opening import open_model

    opened = _of_each(paths, lambda path: list(arrays_of(open_model(path, fold=False), path)), unread)
    arrays = [array for _, stored in opened for array in stored]
    found = stored_digests(arrays, workers, progress)
    return [TensorDigest(array, digest) for array, digest in zip(arrays, found, strict=True)]


def digest_models(
    paths: Sequence[str],
    workers: int | None = None,
    progress: Progress | None = None,
    unread: list[Unread] | None = None,
) -> list[NamedModel]:
    """The model digest of each path. `progress` is told values, for each model anew.

    Raises what `model_digest` raises for the only path, or without `unread`; of several, those that have none go there.
    """
    from modelkit.operations.checksum_model import model_digest

    def work(path: str) -> ModelDigest:
        return model_digest(path, workers=workers, progress=progress)

    return [NamedModel(path, model) for path, model in _of_each(paths, work, unread)]
