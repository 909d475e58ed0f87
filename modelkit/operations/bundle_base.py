"""The base of a delta: which bytes of a model that the other side already has stand for which of this one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelkit.bundles.description import Base, TreeFile
from modelkit.bundles.transforms import BF16, F32, HALVES, Transform
from modelkit.errors import CannotAccess, Refused
from modelkit.operations.bundle_open import MANIFEST, NAME
from modelkit.operations.bundle_source import Run, Tree, read_tree, runs_of, unchanged
from modelkit.operations.checksum_work import Meter, hash_span, side_by_side
from modelkit.sources import LocalFile

DELTAS: Mapping[Transform, Transform] = {
    BF16: Transform((1, 1), delta=16),
    HALVES: Transform((1, 1), delta=16),
    F32: Transform((1, 1, 1, 1), delta=32),
}
"""Floats become differences in the order of the numbers."""

SAME = Transform((1,), delta=8)
"""All else is taken from the base where it is the same, and never as a difference."""


@dataclass(frozen=True, slots=True)
class BaseTree:
    """A base's files, and where its tensors lie: name -> (file, start, size, transform)."""

    tree: Tree
    tensors: Mapping[str, tuple[int, int, int, Transform]]

    def counterpart(self, path: str, file_size: int, run: Run) -> tuple[int, int] | None:
        """(file, start) of the bytes that a run is held against: of the same tensor, or of the same place."""
        if run.name:
            file, start, size, transform = self.tensors.get(run.name, (0, 0, 0, run.transform))
            return (file, start) if size == run.size and transform == run.transform else None
        for number, file_ in enumerate(self.tree.files):
            if file_.path == path and file_.size == file_size:
                return number, run.start
        return None

    def describe(self, digests: Sequence[str]) -> Base:
        """As it stands in the description."""
        files = zip(self.tree.files, digests, strict=True)
        return Base(self.tree.name, tuple(TreeFile(file.path, file.size, digest) for file, digest in files))


def read_base(path: str) -> BaseTree:
    """Reads headers only. Raises Refused for a bundle: what is in it is not what the other side can hold against."""
    tree = read_tree(path)
    names = {file.path for file in tree.files}
    if MANIFEST in names and any(NAME.fullmatch(name) for name in names):
        fix = f"unpack it first (modelkit bundle unpack {path} DST), and name DST with --base"
        raise Refused(f"--base {path}: is a bundle, not what it was made from", fix)
    tensors: dict[str, tuple[int, int, int, Transform]] = {}
    known: dict[str, list[Run]] = {}
    for number, file in enumerate(tree.files):
        for run in runs_of(file, known):
            if run.name:
                tensors.setdefault(run.name, (number, run.start, run.size, run.transform))
    return BaseTree(tree, tensors)


def digests_of(base: BaseTree, workers: int | None) -> list[str]:
    """The SHA-256 of every file of the base."""

    def work(number: int, meter: Meter) -> str:
        file, state = base.tree.files[number], hashlib.sha256()
        source = LocalFile(Path(file.place), file.place)
        try:
            hash_span(source, 0, file.size, [state], meter)
        finally:
            source.close()
        unchanged(file)
        return state.hexdigest()

    numbers = range(len(base.tree.files))
    return side_by_side(numbers, work, lambda number: base.tree.files[number].size, workers)


def check_base(base: Base, path: str | None) -> list[Path]:
    """The files of the base below `path`, each with the SHA-256 that the bundle was made against.

    Raises Refused without a path, or where a file is another one.
    """
    if path is None:
        raise Refused(f"the bundle holds only what differs from {base.name!r}", "name that folder with --base")
    root = Path(path)
    places = [root / file.path if root.is_dir() else root for file in base.files]
    for file, place in zip(base.files, places, strict=True):
        if not place.is_file():
            raise CannotAccess(f"{place}: is not there", "the bundle was made against it: name the right --base")
        with place.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            raise Refused(f"{place}: is not the file that the bundle was made against", "name the right --base")
    return places
