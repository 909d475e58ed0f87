"""Digests of files, of the tensors in them, and of what a model means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.errors import ModelkitError
from modelkit.operations.checksum_files import Content, Unread, content, files_of, size_of
from modelkit.operations.checksum_known import Known, by_content_address, pointer
from modelkit.operations.checksum_work import Meter, Progress, side_by_side
from modelkit.sums import MODEL, Entry

if TYPE_CHECKING:
    from modelkit.operations.checksum_model import ModelDigest
    from modelkit.operations.checksum_tensors import StoredArray


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
    paths: Sequence[str], workers: int | None = None, progress: Progress | None = None
) -> tuple[list[FileDigest], list[Unread]]:
    """sha256 of every file that `paths` stand for, in their order, and what could not be read.

    Raises CannotAccess for a path that is not there. `progress` is told bytes.
    """
    unread: list[Unread] = []
    files = [file for path in paths for file in files_of(path, unread)]
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


def digest_tensors(
    paths: Sequence[str], workers: int | None = None, progress: Progress | None = None
) -> list[TensorDigest]:
    """sha256 of every stored array of the models at `paths`. Raises what `open_model` raises."""
    from modelkit.operations.checksum_tensors import arrays_of, stored_digests
    from modelkit.operations.opening import open_model

    arrays = [array for path in paths for array in arrays_of(open_model(path, fold=False), path)]
    found = stored_digests(arrays, workers, progress)
    return [TensorDigest(array, digest) for array, digest in zip(arrays, found, strict=True)]


def digest_models(
    paths: Sequence[str], workers: int | None = None, progress: Progress | None = None
) -> list[NamedModel]:
    """The model digest of each path. `progress` is told values, for each model anew."""
    from modelkit.operations.checksum_model import model_digest

    return [NamedModel(path, model_digest(path, workers=workers, progress=progress)) for path in paths]
