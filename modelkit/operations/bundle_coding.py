"""Read a piece of the source, see that it is what the first reading saw, and code it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.bundles.codecs import MANNERS, Coder, Manner
from modelkit.bundles.delta import difference
from modelkit.bundles.layout import CONSTANT, Coded, Entry, Place
from modelkit.bundles.transforms import HARDER, Transform, room, split
from modelkit.errors import BrokenFile
from modelkit.lazy import np
from modelkit.operations.bundle_base import DELTAS, SAME
from modelkit.operations.bundle_plan import Plan
from modelkit.operations.bundle_pool import IN_FLIGHT, in_order
from modelkit.operations.bundle_scan import fingerprint
from modelkit.sources import Disk

if TYPE_CHECKING:
    from modelkit.tensors import Array

OPEN = 64  # files of the source


@dataclass(frozen=True, slots=True)
class CodedPiece:
    """A piece as it is stored: its number among the stored ones, entry, line of the table, planes."""

    number: int
    entry: Entry
    row: bytes
    planes: list[bytes]


class Coding:
    """All stored pieces of a plan, in order, coded by a pool of threads."""

    def __init__(self, plan: Plan, prints: Array, first: Array) -> None:
        self.plan = plan
        self.coder = Coder(plan.request.coding, best=plan.request.best)
        self.prints = prints
        self.order = np.flatnonzero(first == np.arange(len(first)))
        self._others: dict[int, list[int]] = {}
        for number in np.flatnonzero(first != np.arange(len(first))).tolist():
            self._others.setdefault(int(first[number]), []).append(number)
        self._sources = _Sources([file.place for file in plan.tree.files])
        self._bases = _Sources([file.place for file in plan.base.tree.files] if plan.base is not None else [])

    def pieces(self, start: int, executor: Executor) -> Iterator[CodedPiece]:
        """From stored piece `start` on."""
        numbers = range(start, len(self.order))
        return in_order(executor, self._code, numbers, IN_FLIGHT * self.plan.request.workers)

    def size(self, number: int) -> int:
        """Bytes of the tree up to stored piece `number`, about: for progress."""
        if number >= len(self.order):
            return self.plan.tree.size
        return int(self.order[number] * self.plan.tree.size // len(self.plan.cuts.table))

    def _code(self, number: int) -> CodedPiece:
        piece = int(self.order[number])
        row = self.plan.cuts.table[piece]
        file, length = int(row["file"]), int(row["length"])
        data = room().source[:length]
        self._sources.read(file, int(row["offset"]), data)
        if fingerprint(data) != self.prints[piece].tobytes():
            name = self.plan.tree.files[file].place
            fix = "run again with --force when nothing writes to it; if nothing does, its disk or the memory is failing"
            raise BrokenFile(f"{name}: was read twice and differs", fix, "changed-file", int(row["offset"]))
        manner, base = MANNERS[row["manner"]], None
        found = self._from_base(data, row) if row["base"] else None
        if found is not None and not _size(found[1]):  # the same as in the base
            transform, coded, planes = found
        else:
            transform, coded, planes = self._best(data, int(row["transform"]), manner)
        if found is not None and _size(found[1]) <= _size(coded):
            (transform, coded, planes), base = found, Place(int(row["base"]) - 1, int(row["base_offset"]))
        targets = [piece, *self._others.get(piece, ())]
        entry = Entry(transform, length, tuple(coded), tuple(self._place(one) for one in targets), base)
        return CodedPiece(number, entry, entry.pack(), planes)

    def _from_base(self, data: memoryview, row: Any) -> tuple[int, list[Coded], list[bytes]] | None:
        """The piece as a difference from the base; None where it is no float and not the same."""
        transforms = self.plan.cuts.transforms
        before = room().base[: len(data)]
        self._bases.read(int(row["base"]) - 1, int(row["base_offset"]), before)
        if data == before:
            return transforms.index(SAME), [Coded(CONSTANT, 0)], [b""]
        delta = DELTAS.get(transforms[row["transform"]])
        if delta is None:
            return None
        steps = difference(data, before, delta.delta)
        return transforms.index(delta), *self._planes(steps.data, delta, "weights")

    def _place(self, piece: int) -> Place:
        row = self.plan.cuts.table[piece]
        return Place(int(row["file"]), int(row["offset"]))

    def _best(self, data: memoryview, transform: int, manner: Manner) -> tuple[int, list[Coded], list[bytes]]:
        """The transform of the dtype; with `--max` the best of several."""
        transforms = self.plan.cuts.transforms
        chosen = transforms[transform]
        coded, planes = self._planes(data, chosen, manner)
        if self.plan.request.best:
            for other in HARDER.get(chosen, ()):
                again, stored = self._planes(data, other, manner)
                if _size(again) < _size(coded):
                    transform, coded, planes = transforms.index(other), again, stored
        return transform, coded, planes

    def _planes(self, data: memoryview, transform: Transform, manner: Manner) -> tuple[list[Coded], list[bytes]]:
        pairs = [self.coder.code(plane, manner) for plane in split(data, transform)]
        return [coded for coded, _ in pairs], [stored for _, stored in pairs]


def _size(coded: Sequence[Coded]) -> int:
    return sum(plane.stored for plane in coded)


class _Sources:
    """Open files of the source, shared by threads; the oldest are closed by who held them last."""

    def __init__(self, places: Sequence[str]) -> None:
        self._disks: dict[int, Disk] = {}
        self._places = places

    def read(self, file: int, start: int, into: memoryview) -> None:
        disk = self._disks.get(file)
        if disk is None:
            while len(self._disks) >= OPEN:
                self._disks.pop(next(iter(self._disks)), None)
            disk = self._disks[file] = Disk(Path(self._places[file]))
        disk.open(Path(self._places[file]).name).read_into(start, into)
