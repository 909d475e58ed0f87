"""Carry out one job: read, compute, measure, write, a piece at a time.

A piece is small enough to stay in the processor's cache from its reading to its writing, and lies in buffers that
each thread keeps: fresh memory for every job took longer than the arithmetic on most encodings. Files are read, not
mapped: a mapped file that is cut short meanwhile ends the process, and mapping was no faster.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.encodings import one_pass
from modelkit.errors import BadValue
from modelkit.kernels import arrays
from modelkit.lazy import np
from modelkit.moving import move, pieces, write_at
from modelkit.plan import Job, tiles
from modelkit.repacking import Door, repack
from modelkit.sources import LocalFile, explained
from modelkit.tensors import Importance, Span

if TYPE_CHECKING:
    from modelkit.steps import Step
    from modelkit.tensors import F32, Array

SLAB = 1 << 18  # values compared at once where they were shifted

_threads = threading.local()


@dataclass(frozen=True, slots=True)
class Folders:
    """Where jobs find their files: `source / name` to read, `target / (name + suffix)` to write."""

    source: str
    target: str
    suffix: str = ""

    def reading(self, name: str) -> str:
        return os.path.join(self.source, name)

    def writing(self, name: str) -> str:
        return os.path.join(self.target, name + self.suffix)


@dataclass(frozen=True, slots=True)
class Done:
    """What one job did: the difference of real values before and after, and its bytes' checksum.

    No checksum where bytes were only moved: what they should be stands in the source. `beyond`: a repacked weight
    moved by more than the precision of its scale.
    """

    job: int
    crc: int | None
    largest_error: float = 0.0
    squared_error: float = 0.0
    squared_values: float = 0.0
    beyond: bool = False


def carry_out(number: int, job: Job, folders: Folders) -> Done:
    """Raises BadValue with the place of a value that cannot be held."""
    if job.moves:
        for read, write in zip(job.reads, job.writes, strict=True):
            move(folders.reading(read.file), read, folders.writing(write.file), write)
        return Done(number, None)
    if job.in_slabs:
        return _in_slabs(number, job, folders)
    largest, squared, total, count = 0.0, 0.0, 0.0, prod(job.shape)
    sums = [0] * len(job.writes)
    with ExitStack() as opened:
        sources = [opened.enter_context(closing(_source(folders, span))) for span in job.reads]
        targets = [_target(folders, span, opened) for span in job.writes]
        for first, size in tiles(count, 1, job.unit, job.piece):
            reads = [span.cut(first, size, count) for span in job.reads]
            writes = [span.cut(first, size, count) for span in job.writes]
            stored = [_read(source, span, n) for n, (source, span) in enumerate(zip(sources, reads, strict=True))]
            written, errors = _piece(job, first, size, stored, writes)
            largest, squared, total = max(largest, errors[0]), squared + errors[1], total + errors[2]
            for part, (file, span, data) in enumerate(zip(targets, writes, written, strict=True)):
                sums[part] = zlib.crc32(data.data, sums[part])
                with explained(folders.writing(span.file)):
                    write_at(file, span.start, data.data)
    return Done(number, _joined(sums), largest, squared, total)


def _in_slabs(number: int, job: Job, folders: Folders) -> Done:
    """What layouts need. Errors are not measured here: what was written is opened again and compared as a whole."""

    def read(span: Span) -> Array:
        with closing(_source(folders, span)) as source:
            return np.frombuffer(source.read(span.start, span.size), np.uint8)

    def write(span: Span, data: Array) -> None:
        with ExitStack() as opened:
            file = _target(folders, span, opened)
            with explained(folders.writing(span.file)):
                write_at(file, span.start, data.data)

    beyond = repack(job, Door(read, write, _weights))
    return Done(number, checksum(folders.writing, job.writes), beyond=beyond)


def checksum(place: Callable[[str], str], spans: Iterable[Span]) -> int:
    """Of bytes that stand in files; `place` says where a file lies."""
    sums = []
    for span in spans:
        crc = 0
        for piece in pieces(place(span.file), span):
            crc = zlib.crc32(piece, crc)
        sums.append(crc)
    return _joined(sums)


def _joined(sums: Sequence[int]) -> int:
    """One checksum from those of each part, which grow piece by piece side by side."""
    return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in sums))


def _piece(
    job: Job, first: int, count: int, stored: list[Array], writes: Sequence[Span]
) -> tuple[Sequence[Array], tuple[float, float, float]]:
    """What is to be written for `count` values from `first` of the job on, and how far values lie apart by it."""
    shape = (count // job.shape[-1], job.shape[-1]) if count % job.shape[-1] == 0 else (count,)
    moves = not any(step.shift for step in job.steps)
    if job.copies:
        return [_moved(job, data, shape) for data in stored], (0.0, 0.0, 0.0)
    if moves and len(stored) == 1 and (not job.steps or job.shape[-1] % job.source.unit(shape) == 0):
        stored = [_moved(job, stored[0], shape)]
        if job.importance is None and len(writes) == 1:
            out = _buffer(("written", 0), writes[0].size)
            errors = one_pass(job.source, job.target, stored[0], out)
            if errors is not None:
                return (out,), errors
        return _computed(job, stored, shape, (), first)
    return _computed(job, stored, shape, job.steps, first)


def _moved(job: Job, data: Array, shape: Sequence[int]) -> Array:
    """Stored rows in their new order."""
    if not job.steps:
        return data
    rows = data.reshape(shape[0], -1)
    for step in job.steps:
        rows = step.apply(rows)
    return rows.reshape(-1)


def _computed(
    job: Job, stored: list[Array], shape: Sequence[int], steps: Sequence[Step], first: int
) -> tuple[Sequence[Array], tuple[float, float, float]]:
    """The same by way of float32 values, which `steps` still have to change."""
    values = job.source.unpack(stored, tuple(shape))
    # float32 has rounded an f64 already: that belongs to the difference
    before = stored[0].view("<f8").reshape(shape) if job.source.name == "f64" else values
    for step in steps:
        if not step.shift:
            values, before = step.apply(values), values if before is values else step.apply(before)
    shift = 0
    for step in steps:
        if step.shift:
            values, shift = step.apply(values), shift + step.shift
    try:
        packed = _packed(job, values, job.first + first)
    except BadValue as error:
        index = job.first + first + error.index
        raise BadValue(error.message, error.fix, index=index, tensor=job.tensor) from None
    written = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in packed]
    after = job.target.unpack(written, values.shape)
    return written, shifted_difference(before, after, shift) if shift else arrays.difference(before, after)


def _packed(job: Job, values: F32, first: int) -> tuple[Array, ...]:
    """The stored arrays of values from `first` of the tensor on; with importance, each matrix by its own."""
    importance = job.importance
    if importance is None:
        return job.target.pack(values)
    columns, size = importance.columns, importance.columns * importance.rows
    flat = values.reshape(-1)
    pieces = []
    start, last = first, first + len(flat)
    while first < last:
        matrix = first // size
        end = min((matrix + 1) * size, last)
        run = flat[first - start : end - start].reshape(-1, columns)
        try:
            pieces.append(job.target.pack(run, _weights(importance, matrix)))
        except BadValue as error:
            raise BadValue(error.message, error.fix, index=first - start + error.index) from None
        first = end
    return tuple(np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*pieces, strict=True))


def _weights(importance: Importance, matrix: int) -> F32:
    """float32 [column]: the mean of what a column of this matrix was multiplied with, squared."""
    count = importance.counts[matrix]
    if count <= 0:
        return np.ones(importance.columns, np.float32)
    with closing(LocalFile(Path(importance.file), importance.file)) as file:
        data = file.read(importance.start + 4 * importance.columns * matrix, 4 * importance.columns)
    sums: F32 = np.frombuffer(data, "<f4").astype(np.float32)
    return sums / np.float32(count)


def shifted_difference(before: Array, after: F32, shift: int) -> tuple[float, float, float]:
    """The same three figures of what the values mean, where `shift` was added on the way.

    The larger side is the meaning: 1 + w. float64 cannot hold every such sum, so what its rounding loses is
    carried along (Knuth's two-sum): a difference of 0 is none.
    """
    largest, squared, total = 0.0, 0.0, 0.0
    one, other = before.reshape(-1), after.reshape(-1)
    for first in range(0, len(one), SLAB):
        was, now = (part[first : first + SLAB].astype(np.float64) for part in (one, other))
        finite = np.isfinite(was)
        was = np.where(finite, was, 0)
        sums = was + shift
        part = sums - was
        lost = (was - (sums - part)) + (shift - part)
        apart = np.where(finite, (now - sums) - lost, 0)
        meant = sums if shift > 0 else was
        largest = max(largest, float(np.abs(apart).max(initial=0.0)))
        squared += float(apart @ apart)
        total += float(np.sum(np.square(meant), where=finite))
    return largest, squared, total


def _source(folders: Folders, span: Span) -> LocalFile:
    return LocalFile(Path(folders.reading(span.file)), span.file)


def _target(folders: Folders, span: Span, opened: ExitStack) -> int:
    path = folders.writing(span.file)
    with explained(path):
        file = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    opened.callback(os.close, file)
    return file


def _read(source: LocalFile, span: Span, number: int) -> Array:
    data = _buffer(("read", number), span.size)
    source.read_into(span.start, data.data)
    return data


def _buffer(use: tuple[str, int], size: int) -> Array:
    """uint8 [size] of this thread; what it held for the same use is lost."""
    kept: dict[tuple[str, int], Array] = _threads.__dict__.setdefault("buffers", {})
    if use not in kept or len(kept[use]) < size:
        kept[use] = np.empty(size, np.uint8)
    return kept[use][:size]
