"""Decide every byte of the output before any tensor data is read.

An Assignment says what becomes of one tensor; `make` cuts all of them into jobs of bounded size, each
with the exact spans that it reads and writes. A job is a small frozen value: it can be pickled, run in
any order, on any executor, and run twice without harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm, prod
from typing import Any, Literal

from modelkit.moving import BUFFER
from modelkit.steps import Step
from modelkit.tensors import Encoding, Importance, Layout, Model, Shape, Span, Tensor

TILE = 4 * 2**20
"""Values worked on at once: 16 MiB of float32, large enough to keep threads busy."""

PIECE = 128 * 2**10
"""Values that a job reads, computes and writes at once: stored bytes of both sides stay in the processor's cache."""

COPY = 16 * 2**20
"""Bytes of a job that computes nothing."""

Expectation = Literal["EXACT", "ROUNDED", "QUANTISED", "REQUANTISED"]
ORDER: tuple[Expectation, ...] = ("EXACT", "ROUNDED", "QUANTISED", "REQUANTISED")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One tensor's way: from `source` through `steps` to `target`; `why` explains an unasked encoding."""

    source: Tensor
    target: Tensor
    steps: tuple[Step, ...] = ()
    why: str = ""
    importance: Importance | None = None

    @property
    def expectation(self) -> Expectation:
        """The worst verdict that encodings and steps allow."""
        return expect(self.source.encoding, self.target.encoding, self.steps)

    @property
    def copies(self) -> bool:
        """Bytes move as they are, at most in another order of rows."""
        return copies(self.source.encoding, self.target.encoding, self.steps)


@dataclass(frozen=True, slots=True)
class Job:
    """Make one run of one output tensor. `shape` is the run's: rows and columns, or a count of values."""

    tensor: int  # position in Plan.assignments
    first: int  # its first value within the tensor
    shape: Shape
    source: Encoding
    target: Encoding
    steps: tuple[Step, ...]
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    importance: Importance | None = None

    @property
    def copies(self) -> bool:
        """Bytes move as they are, at most in another order of rows."""
        return copies(self.source, self.target, self.steps)

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
    return source == target and not any(step.shift for step in steps)


def expect(source: Encoding, target: Encoding, steps: Sequence[Step] = ()) -> Expectation:
    """The worst that can happen to real values between two encodings. A sum is rounded to float32."""
    if copies(source, target, steps) or (target.holds(source) and not any(step.shift for step in steps)):
        return "EXACT"
    if target.kind == "float":
        return "ROUNDED"
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
    blocks = lcm(way.source.encoding.unit(way.source.shape), way.target.encoding.unit(way.target.shape))
    unit = together(blocks, columns, way.steps, way.importance)
    for first, count in tiles(total, columns, unit, _limit(way)):
        shape = (count // columns, columns) if count % columns == 0 else (count,)
        yield Job(
            number, first, shape, way.source.encoding, way.target.encoding, way.steps,
            _cut(way.source, reads, first, count), _cut(way.target, writes, first, count), way.importance,
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
    whole = lcm(unit, max(columns, 1))
    step = limit // whole * whole or limit // unit * unit or unit
    for first in range(0, total, step):
        yield first, min(step, total - first)


def _cut(tensor: Tensor, spans: Mapping[str, Span], first: int, count: int) -> tuple[Span, ...]:
    return tuple(spans[part.name].cut(first, count, tensor.count) for part in tensor.parts)


def worst(verdicts: Iterable[Expectation]) -> Expectation:
    """The verdict that loses most; EXACT for none."""
    return max(verdicts, key=ORDER.index, default="EXACT")
