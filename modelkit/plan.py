"""Decide every byte of the output before any tensor data is read.

An Assignment says what becomes of one tensor; `make` cuts all of them into jobs of bounded size, each
with the exact spans that it reads and writes. A job is a small frozen value: it can be pickled, run in
any order, on any executor, and run twice without harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import TYPE_CHECKING, Any, Literal

from modelkit import runs
from modelkit.encodings._codes import fits
from modelkit.encodings._fitting import METHODS, Method
from modelkit.moving import BUFFER
from modelkit.runs import grouped, layout_of, lies_across, sliced
from modelkit.steps import Step
from modelkit.tensors import Encoding, Importance, Layout, Model, Shape, Span, Tensor

if TYPE_CHECKING:
    from modelkit.encodings._codes import Fit

TILE = 4 * 2**20
"""Values worked on at once: 16 MiB of float32, large enough to keep threads busy."""

PIECE = 127 * 2**10
"""Values that a job reads, computes and writes at once: stored bytes of both sides stay in the processor's cache, and
numpy makes blocks of all of them at once (`encodings/_slabs.py`)."""

COPY = 16 * 2**20
"""Bytes of a job that computes nothing."""

SLAB = 1 << 19
"""Values of grouped weights worked on at once, within a job."""

Expectation = Literal["EXACT", "ROUNDED", "QUANTISED", "REQUANTISED"]
ORDER: tuple[Expectation, ...] = ("EXACT", "ROUNDED", "QUANTISED", "REQUANTISED")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One tensor's way: from `source` through `steps` to `target`; `why` explains an unasked encoding.

    `probed` is the verdict that a sample of the data made likely.
    """

    source: Tensor
    target: Tensor
    steps: tuple[Step, ...] = ()
    why: str = ""
    importance: Importance | None = None
    probed: Expectation | None = None

    @property
    def expectation(self) -> Expectation:
        """The worst verdict that encodings and steps allow, or what a sample showed."""
        return self.probed or expect(self.source.encoding, self.target.encoding, self.steps)

    @property
    def copies(self) -> bool:
        """Bytes move as they are, at most in another order of rows."""
        parts = [[(part.dtype, part.shape) for part in side.parts] for side in (self.source, self.target)]
        return parts[0] == parts[1] and copies(self.source.encoding, self.target.encoding, self.steps)

    @property
    def in_slabs(self) -> bool:
        """It works on the parts of a layout, or on codes."""
        return of_groups(self.source.encoding, self.target.encoding, self.steps) and not self.copies

    @property
    def constants(self) -> Mapping[str, bytes]:
        """Parts of the target that no job writes: their bytes follow from the shape."""
        encoding = sliced(self.target.encoding)
        if encoding is None or self.copies or not layout_of(self.target.encoding):
            return {}
        return encoding.constants(self.target.name, self.target.shape)


@dataclass(frozen=True, slots=True)
class Job:
    """Make one run of one output tensor. `shape` is the run's: rows and columns, or a count of values.

    `whole` says which reads belong to every run of rows alike. A write of no bytes is a part that is known already.
    """

    tensor: int  # position in Plan.assignments
    first: int  # its first value within the tensor
    shape: Shape
    source: Encoding
    target: Encoding
    steps: tuple[Step, ...]
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    importance: Importance | None = None
    whole: tuple[bool, ...] = ()

    @property
    def copies(self) -> bool:
        """Bytes move as they are, at most in another order of rows."""
        sizes = [[span.size for span in side] for side in (self.reads, self.writes)]
        return copies(self.source, self.target, self.steps) and sizes[0] == sizes[1]

    @property
    def in_slabs(self) -> bool:
        """It works on a layout's parts, slab by slab of rows."""
        return of_groups(self.source, self.target, self.steps) and not self.copies

    @property
    def method(self) -> Method | None:
        """How codes of the target's are found in floats; None where there is no choice."""
        found = getattr(self.target, "method", None)
        return found if found in METHODS else None

    @property
    def repacks(self) -> bool:
        """Codes become codes; nothing is computed with floats."""
        return not self.copies and repacking(self.source, self.target, self.steps) is not None

    @property
    def slab(self) -> int:
        """Rows of a slab: whole heads where rows move, and what stands alone on both sides."""
        rows, columns = self.shape
        sides = [side for side in (self.source, self.target) if not lies_across(side, self.shape)]
        units = [runs.together(side, self.shape) for side in sides]
        unit = lcm(*units, *(step.rows for step in self.steps), *(_tile(side) for side in (self.source, self.target)))
        if not self.repacks and not fitted(self.target) and lies_across(self.target, self.shape):
            return rows  # such codes are found in all values at once
        return min(max(SLAB // columns // unit, 1) * unit, rows)

    @property
    def moves(self) -> bool:
        """Bytes move as they are and in their order."""
        return self.copies and not self.steps

    @property
    def unit(self) -> int:
        """Values that must stay together: blocks of both encodings, rows of one importance, whole heads."""
        blocks = lcm(self.source.unit(self.shape), self.target.unit(self.shape))
        return together(blocks, self.shape[-1], self.steps, self.importance)

    @property
    def piece(self) -> int:
        """Values worked on at once."""
        return max(PIECE // self.unit, 1) * self.unit

    @property
    def memory(self) -> int:
        """Bytes in use while it runs: a piece of what is read and written, and for arithmetic four float32 arrays."""
        if self.moves:
            return BUFFER
        if self.in_slabs:
            held = sum(span.size for span in self.reads) if lies_across(self.source, self.shape) else 0
            held += sum(span.size for span in self.writes) if lies_across(self.target, self.shape) else 0
            return held + 8 * 4 * self.slab * self.shape[-1]
        count, piece = prod(self.shape), min(self.piece, prod(self.shape))
        stored = sum(span.size for span in (*self.reads, *self.writes)) * piece // max(count, 1)
        return stored if self.copies else stored + 4 * 4 * piece


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole conversion, known to the byte. `probes` names the small reads of data that decided something."""

    assignments: tuple[Assignment, ...]
    layout: Layout
    jobs: tuple[Job, ...]
    probes: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """Bytes that the largest job needs."""
        return max((job.memory for job in self.jobs), default=0)

    @property
    def digest(self) -> str:
        """sha256 over everything that decides the output's bytes, but the data."""
        state = hashlib.sha256()
        for file in self.layout.files:
            state.update(f"{file.name} {file.size}\n".encode("utf-8", "surrogateescape"))
            for start, data in file.literals:
                state.update(f"{start} {hashlib.sha256(data).hexdigest()}\n".encode())
        for job in self.jobs:
            words: tuple[object, ...] = (
                job.source.name, job.target.name, job.steps, job.first, job.shape, job.reads, job.writes
            )  # fmt: skip
            if job.importance:
                words = (*words, job.importance.digest)
            if job.method:
                words = (*words, job.method)
            state.update(f"{words}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def counts(self) -> dict[Expectation, int]:
        found = [assignment.expectation for assignment in self.assignments]
        return {verdict: found.count(verdict) for verdict in ORDER if verdict in found}

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "output_bytes": self.layout.size,
            "files": [{"name": file.name, "bytes": file.size} for file in self.layout.files],
            "jobs": len(self.jobs),
            "job_memory_bytes": self.memory,
            "probes": list(self.probes),
            "verdicts_at_worst": self.counts(),
            "tensors": [
                {
                    "name": way.target.name,
                    "source_name": way.source.name,
                    "shape": list(way.target.shape),
                    "from": way.source.encoding.name,
                    "to": way.target.encoding.name,
                    "bytes": way.target.size,
                    "verdict_at_worst": way.expectation,
                    "steps": [type(step).__name__ for step in way.steps],
                    "why": way.why,
                }
                for way in self.assignments
            ],
        }


def copies(source: Encoding, target: Encoding, steps: Sequence[Step]) -> bool:
    """Whether stored bytes can be written as they are, or in another order of rows."""
    if source != target or any(step.shift for step in steps):
        return False
    return not steps or not layout_of(source)  # rows of a layout may lie across its parts


def repacking(source: Encoding, target: Encoding, steps: Sequence[Step] = ()) -> Fit | None:
    """What moving codes from one encoding to the other can do; None where values have to be computed.

    Between two ggml types there is no repacking: what `llama-quantize` makes of them is what is meant.
    """
    one, other = grouped(source), grouped(target)
    if one is None or other is None or (source.ggml is not None and target.ggml is not None):
        return None
    if one.grid.group == 0 and not layout_of(target) and target.ggml is None:
        return None  # llama2.c cuts weights into groups without asking where a row ends
    if any(step.shift for step in steps) or (steps and other.grid.tile != 1):
        return None
    found = fits(one.grid, other.grid)
    return None if found == "NONE" else found


def of_groups(source: Encoding, target: Encoding, steps: Sequence[Step] = ()) -> bool:
    """Whether layouts or codes are at work, which are worked on in slabs of rows."""
    return bool(layout_of(source) or layout_of(target)) or repacking(source, target, steps) is not None


def fitted(encoding: Encoding) -> bool:
    """Whether codes of the encoding are found in floats row by row, by rule or by search."""
    found = grouped(encoding)
    if found is None or not layout_of(encoding):
        return False
    return found.grid.number == "integer" and found.grid.tile == 1 and not found.grid.mapped


def _tile(encoding: Encoding) -> int:
    found = grouped(encoding)
    return max(found.grid.tile, 1) if found is not None else 1


def expect(source: Encoding, target: Encoding, steps: Sequence[Step] = ()) -> Expectation:
    """The worst that can happen to real values between two encodings. A sum is rounded to float32."""
    shifted = any(step.shift for step in steps)
    if not shifted and (source == target or target.holds(source)):
        return "EXACT"
    if target.kind == "float":
        return "ROUNDED"
    fit = repacking(source, target, steps)
    if fit is not None:
        return {"EXACT": "EXACT", "ROUNDED": "ROUNDED"}.get(fit, "REQUANTISED")  # type: ignore[return-value]
    return "REQUANTISED" if source.kind == "quantised" else "QUANTISED"


def make(assignments: Sequence[Assignment], source: Model, layout: Layout, probes: Sequence[str] = ()) -> Plan:
    """Cut the work into jobs. Spans of the source come from its Model, those of the target from its Layout."""
    jobs: list[Job] = []
    for number, way in enumerate(assignments):
        jobs += _jobs(number, way, source.spans, layout.model.spans)
    return Plan(tuple(assignments), layout, tuple(jobs), tuple(probes))


def _jobs(number: int, way: Assignment, reads: Mapping[str, Span], writes: Mapping[str, Span]) -> Iterator[Job]:
    total = way.source.count
    columns = way.source.shape[-1] if len(way.source.shape) > 1 else (1 if way.steps else total)
    constants, whole = way.constants, tuple(part.whole for part in way.source.parts)
    blocks = lcm(way.source.encoding.unit(way.source.shape), way.target.encoding.unit(way.target.shape))
    unit = together(blocks, columns, way.steps, way.importance)
    for first, count in tiles(total, columns, unit, _limit(way)):
        shape = (count // columns, columns) if count % columns == 0 else (count,)
        written = way.target.cut(writes, first, count)
        if constants:
            pairs = zip(way.target.parts, written, strict=True)
            written = tuple(replace(span, size=0) if part.name in constants else span for part, span in pairs)
        yield Job(
            number, first, shape, way.source.encoding, way.target.encoding, way.steps,
            way.source.cut(reads, first, count), written, way.importance, whole,
        )  # fmt: skip


def together(blocks: int, columns: int, steps: Sequence[Step], importance: Importance | None) -> int:
    """Values that must stay together: whole blocks, rows that share weights, heads where rows move."""
    rows = columns if importance else 1
    return lcm(blocks, rows, *(step.rows * columns for step in steps))


def _limit(way: Assignment) -> int:
    if not way.copies:
        return TILE
    return max(1, COPY * way.source.count // max(1, way.source.size))


def tiles(total: int, columns: int, unit: int, limit: int) -> Iterator[tuple[int, int]]:
    """(first, count) runs of at most `limit` values (one unit at least), whole rows where they fit."""
    if not total:
        return  # rows of no columns have units of nothing
    whole = lcm(unit, max(columns, 1))
    step = limit // whole * whole or limit // unit * unit or unit
    for first in range(0, total, step):
        yield first, min(step, total - first)


def worst(verdicts: Iterable[Expectation]) -> Expectation:
    """The verdict that loses most; EXACT for none."""
    return max(verdicts, key=ORDER.index, default="EXACT")
