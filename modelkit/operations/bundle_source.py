"""What goes into a bundle: the files of a tree, and how each is cut into pieces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modelkit.bundles import limits, paths
from modelkit.bundles.codecs import MANNERS, Manner
from modelkit.bundles.transforms import BY_BLOCK, BY_DTYPE, BYTES, HARDER, Transform
from modelkit.errors import CannotAccess, ModelkitError, Refused
from modelkit.lazy import np
from modelkit.operations.checksum_files import Unread, files_of
from modelkit.operations.opening import read_model
from modelkit.sources import Disk, explained
from modelkit.tensors import Model, Part, Tensor

if TYPE_CHECKING:
    from modelkit.tensors import Array

MODELS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz", ".npy", ".ckpt")
"""Endings of files that may hold tensors."""

ALONE = 64 << 10
"""A tensor from this size on begins a piece of its own, so that equal tensors are found wherever they lie."""

TEXT = 64 << 20
"""Files without tensors up to this size are worth the search for matches."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that goes in: where it lies, and what it is called in the tree."""

    place: str
    path: str
    size: int
    executable: bool
    state: tuple[int, int, int]  # size, mtime, inode: it must not change while it is read


@dataclass(frozen=True, slots=True)
class Tree:
    """Files sorted by the bytes of their path, and the folders that hold none."""

    name: str
    files: tuple[SourceFile, ...]
    folders: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a file that are cut alike."""

    start: int
    size: int
    transform: Transform
    manner: Manner
    name: str = ""  # of the stored array
    base: tuple[int, int] | None = None  # file and start of the bytes of the base that it is held against


class Counterparts(Protocol):
    """What finds the bytes of a base."""

    def counterpart(self, path: str, file_size: int, run: Run) -> tuple[int, int] | None: ...


@dataclass(frozen=True, slots=True)
class Cuts:
    """All pieces in the order of the tree: a numpy table, so that a million of them stay small.

    Columns: file u4, offset u8, length u4, transform u1 (index into `transforms`), manner u1; base u4 (file + 1, 0 is
    none) and base_offset u8.
    """

    table: Array
    transforms: tuple[Transform, ...]


COLUMNS = [
    ("file", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("transform", "u1"), ("manner", "u1"),
    ("base", "<u4"), ("base_offset", "<u8"),
]  # fmt: skip


MARKS = limits.VALUES // 5
"""In the names of a tree, or of its base: the marks that its description may have besides its own."""


def read_tree(source: str) -> Tree:
    """Every file below `source`, or the file itself. Raises Refused for what cannot be restored everywhere."""
    root = Path(source)
    unread: list[Unread] = []
    places = list(files_of(source, unread))
    if unread:
        first = unread[0]
        raise Refused(f"{first.path}: {first.reason}", "a bundle is whole or not made: remove it or make it readable")
    folder = root.is_dir()
    start = len(source.rstrip("/")) + 1 if folder else 0
    files = [_file(place, place[start:] if folder else root.name) for place in places]
    files.sort(key=_order)
    folders = tuple(sorted(_empty_folders(source))) if folder else ()
    for path in [*(file.path for file in files), *folders]:
        fault = paths.fault_of(path)
        if fault:
            raise Refused(f"{path!r}: {fault}", "rename it: it could not be restored on every system")
    if len(files) > limits.FILES or len(folders) > limits.FILES:
        raise Refused(f"{source}: has more than {limits.FILES:,} files or folders", "pack them into an archive first")
    marks = sum(path.count(mark) for path in [*(file.path for file in files), *folders] for mark in "{[,")
    if marks > MARKS:
        raise Refused(
            f"{source}: has {marks:,} commas and brackets in its names", "pack the files into an archive first"
        )
    if not files and not folders:
        raise Refused(f"{source}: holds no file", "name the folder of a model, or a file")
    return Tree(os.path.basename(os.path.abspath(source)), tuple(files), folders)


def with_folder(tree: Tree, place: str, name: str) -> Tree:
    """The same tree with the files of a folder below `name`. Raises Refused where that is taken."""
    if any(file.path.split("/")[0] == name for file in tree.files):
        raise Refused(f"{tree.name}: has a folder {name} already", "rename it, or leave --two-files out")
    added = [replace(file, path=f"{name}/{file.path}") for file in read_tree(place).files]
    return replace(tree, files=tuple(sorted((*tree.files, *added), key=_order)))


def _order(file: SourceFile) -> bytes:
    return file.path.encode("utf-8", "surrogatepass")


def _file(place: str, path: str) -> SourceFile:
    with explained(place):
        found = os.stat(place)
    state = (found.st_size, found.st_mtime_ns, found.st_ino)
    return SourceFile(place, path, found.st_size, bool(found.st_mode & 0o100), state)


def _empty_folders(source: str) -> Iterator[str]:
    for place, folders, files in os.walk(source):
        relative = os.path.relpath(place, source).replace(os.sep, "/")
        if not folders and not files and relative != ".":
            yield relative


def unchanged(file: SourceFile) -> None:
    """Raises CannotAccess when a file is not as it was when the work began."""
    if _file(file.place, file.path).state != file.state:
        raise CannotAccess(f"{file.place}: changed while it was read", "run again when nothing writes to it")


def cut(tree: Tree, *, plain: bool = False, best: bool = False, base: Counterparts | None = None) -> Cuts:
    """Where every piece begins and ends, and how it is transformed; reads headers only. `plain`: not at all."""
    known: dict[str, list[Run]] = {}
    transforms: list[Transform] = [BYTES]
    tables = []
    for number, file in enumerate(tree.files):
        runs = (
            [Run(0, file.size, BYTES, "other")] if plain else list(_joined(_against(base, file, runs_of(file, known))))
        )
        for run in runs:
            if run.transform not in transforms:
                transforms.append(run.transform)
        tables += [_pieces(number, run, transforms.index(run.transform)) for run in runs if run.size]
    if best:
        harder = (other for one in list(transforms) for other in HARDER.get(one, ()))
        transforms += [other for other in dict.fromkeys(harder) if other not in transforms]
    table = np.concatenate(tables) if tables else np.empty(0, COLUMNS)
    return Cuts(table, tuple(transforms))


def _pieces(file: int, run: Run, transform: int) -> Array:
    step = limits.PIECE // run.transform.block * run.transform.block
    starts = np.arange(0, run.size, step, dtype=np.uint64)
    table = np.empty(len(starts), COLUMNS)
    table["file"], table["transform"], table["manner"] = file, transform, MANNERS.index(run.manner)
    table["base"], table["base_offset"] = 0, 0
    if run.base is not None:
        table["base"], table["base_offset"] = run.base[0] + 1, starts + np.uint64(run.base[1])
    table["offset"] = starts + np.uint64(run.start)
    table["length"] = np.minimum(np.uint64(step), np.uint64(run.size) - starts)
    return table


def runs_of(file: SourceFile, known: dict[str, list[Run]]) -> list[Run]:
    """The runs of a file; those of its siblings are learnt with it where a header names them."""
    place = os.path.realpath(file.place)
    if place not in known and file.path.lower().endswith(MODELS):
        known.update(_of_model(file))
    manner: Manner = "text" if file.size <= TEXT else "other"
    if file.path.lower().endswith(MODELS) and place not in known:
        manner = "other"
    return list(_covering(known.get(place, []), file.size, manner))


def _against(base: Counterparts | None, file: SourceFile, runs: Iterable[Run]) -> Iterator[Run]:
    for run in runs:
        yield run if base is None else replace(run, base=base.counterpart(file.path, file.size, run))


def _of_model(file: SourceFile) -> dict[str, list[Run]]:
    """By the real path of each file of a model: the runs of its tensors. Nothing where it cannot be read."""
    try:
        disk = Disk(file.place)
        model = read_model(disk).model
    except ModelkitError:
        return {}  # not a model, or a broken one: its bytes are carried as they are
    found: dict[str, list[Run]] = {}
    for tensor in model.tensors:
        for name, run in _of_tensor(tensor, model):
            found.setdefault(os.path.realpath(disk.place(name)), []).append(run)
    return found


def _of_tensor(tensor: Tensor, model: Model) -> Iterator[tuple[str, Run]]:
    for part in tensor.parts:
        span = model.spans.get(part.name)
        if span is not None:
            yield span.file, Run(span.start, span.size, _transform(tensor, part), "weights", part.name)


def _transform(tensor: Tensor, part: Part) -> Transform:
    block = BY_BLOCK.get(tensor.encoding.name)
    if block is not None and tensor.encoding.ggml is not None and part.size % block.block == 0:
        return block
    return BY_DTYPE.get(part.dtype, BYTES)


def _joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Small neighbours that are cut alike become one run."""
    waiting: Run | None = None
    for run in runs:
        if waiting is not None and _alike(waiting, run):
            waiting = replace(waiting, size=waiting.size + run.size)
            continue
        if waiting is not None:
            yield waiting
        waiting = run
    if waiting is not None:
        yield waiting


def _alike(one: Run, following: Run) -> bool:
    if (one.transform, one.manner) != (following.transform, following.manner) or max(one.size, following.size) >= ALONE:
        return False
    follows = None if one.base is None else (one.base[0], one.base[1] + one.size)
    return follows == following.base


def _covering(runs: Sequence[Run], size: int, manner: Manner) -> Iterator[Run]:
    """Runs that cover the whole file: gaps filled, overlaps and half blocks carried as bytes."""
    at = 0
    for run in sorted(runs, key=lambda run: (run.start, run.size)):
        if run.start < at or run.start + run.size > size or not run.size:
            continue
        if run.start > at:
            yield Run(at, run.start - at, BYTES, manner)
        whole = run.size // run.transform.block * run.transform.block
        if whole:
            yield replace(run, size=whole)
        if whole < run.size:
            yield Run(run.start + whole, run.size - whole, BYTES, run.manner)
        at = run.start + run.size
    if at < size:
        yield Run(at, size - at, BYTES, manner)
