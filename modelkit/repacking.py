"""Carry out a job on grouped weights, slab by slab of rows: codes to codes where they go over, else through floats.

Rows are read alone where the source's parts can be cut, and written alone where the target's can; a layout whose
rows lie across its parts is held packed, never as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelkit.encodings._codes import first_column, refuse_nonfinite
from modelkit.encodings._fitting import fit
from modelkit.encodings._refitting import moves_beyond, refit
from modelkit.errors import BadValue
from modelkit.lazy import np
from modelkit.plan import Job, fitted, repacking
from modelkit.runs import Placing, Read, Runs, grouped, layout_of
from modelkit.tensors import Encoding, Importance, Span, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Codes

Weights = Callable[[Importance, int], "F32"]
"""(importance, number of a matrix) -> float32 [column]."""

WIDER = {"mlx": "mlx:scale=f32", "compressed_tensors": "compressed-tensors:scale=f32"}
"""By layout, what holds scales and biases beyond f16."""


@dataclass(frozen=True, slots=True)
class Door:
    """How a job reaches its files."""

    read: Read
    write: Callable[[Span, Array], None]
    weights: Weights


def repack(job: Job, door: Door) -> bool:
    """Do it; whether codes had to be found anew, because a weight would move by more than the precision of its scale.

    Raises BadValue with the index of a value within the tensor.
    """
    source = Runs(job.source, job.shape, job.reads, job.whole, door.read)
    target = Placing(job.target, job.shape, job.writes, door.write)
    fit, beyond = None if job.copies else repacking(job.source, job.target, job.steps), False
    for first, count in _slabs(job):
        try:
            if fit is not None:
                if _codes(job, source, target, first, count, exact=fit == "EXACT"):
                    continue
                beyond = True
            _values(job, source, target, door.weights, first, count)
        except BadValue as error:
            index = job.first + first * job.shape[-1] + error.index
            raise BadValue(error.message, error.fix, index=index, tensor=job.tensor) from None
    target.finish()
    return beyond


def _slabs(job: Job) -> Iterator[tuple[int, int]]:
    rows, _ = matrix(job.shape)
    for first in range(0, rows, job.slab):
        yield first, min(job.slab, rows - first)


def _codes(job: Job, source: Runs, target: Placing, first: int, count: int, *, exact: bool) -> bool:
    """Repack a slab; False, and nothing done, where a weight would move by more than rounding explains."""
    found = source.codes(first, count)
    refuse_nonfinite(found, job.target.name)
    for step in job.steps:
        found = stepped(found, step.apply)
    encoding = grouped(job.target)
    assert encoding is not None  # noqa: S101 - the job repacks
    try:
        fitting = refit(found, encoding.grid, (count, job.shape[-1]))
    except BadValue as error:
        raise _of_a_group(error, found, job.target) from None
    if not exact and moves_beyond(found, fitting):
        return False
    _place(fitting, target, first)
    return True


def _place(codes: Codes, target: Placing, first: int) -> None:
    try:
        target.codes(codes, first)
    except BadValue as error:
        raise _of_a_group(error, codes, target.encoding) from None


def _of_a_group(error: BadValue, codes: Codes, target: Encoding) -> BadValue:
    """The same error, which counted scales, with the index of the first value of that group, and what holds it."""
    row, place = divmod(error.index, max(codes.scales.shape[1], 1))
    index = row * codes.codes.shape[1] + first_column(codes, place)
    own = WIDER.get(layout_of(target))
    fix = f"--to {own} holds it" if own else f"--to {' or '.join(WIDER.values())} hold it"
    return BadValue(error.message, error.fix or fix, index=index)


def stepped(codes: Codes, apply: Callable[[Array], Array]) -> Codes:
    """Rows moved: codes and whatever each row has of scales and zeros alike."""
    zeros = None if codes.zeros is None else apply(codes.zeros)
    biases = None if codes.biases is None else apply(codes.biases)
    return replace(codes, codes=apply(codes.codes), scales=apply(codes.scales), zeros=zeros, biases=biases)


def _values(job: Job, source: Runs, target: Placing, weights: Weights, first: int, count: int) -> None:
    values = source.values(first, count)
    for step in job.steps:
        values = step.apply(values)
    for start, rows, importance in _matrices(job, weights, first, count):
        run = np.ascontiguousarray(values[start : start + rows])
        try:
            if fitted(job.target):
                encoding = grouped(job.target)
                assert encoding is not None  # noqa: S101 - what is fitted has a grid
                _place(fit(run, encoding.grid, job.method or "rtn", importance), target, first + start)
            else:
                target.values(run, first + start, importance)
        except BadValue as error:
            raise BadValue(error.message, error.fix, index=start * job.shape[-1] + error.index) from None


def _matrices(job: Job, weights: Weights, first: int, count: int) -> Iterator[tuple[int, int, F32 | None]]:
    """(first row, rows, importance) of the parts of a slab that belong to one matrix each."""
    importance = job.importance
    if importance is None:
        yield 0, count, None
        return
    start, top = 0, job.first // job.shape[-1] + first
    while start < count:
        number = (top + start) // importance.rows
        rows = min((number + 1) * importance.rows - top - start, count - start)
        yield start, rows, weights(importance, number)
        start += rows
