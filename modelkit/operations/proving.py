"""The proof of a conversion of grouped weights: what was written is opened again and compared with the source.

Both sides are decoded to real values, rounded once to float32; the figures are those of the verdicts. It happens
before anything gets its final name, so that what does not read back as planned is never left standing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import TYPE_CHECKING

from modelkit.encodings._refitting import moves_beyond
from modelkit.errors import BrokenFile
from modelkit.kernels import arrays
from modelkit.layouts import LAYOUTS
from modelkit.lazy import np
from modelkit.operations.checksum_work import Meter, side_by_side, source_of
from modelkit.operations.opening import read_model
from modelkit.plan import SLAB, Assignment, repacking
from modelkit.repacking import stepped
from modelkit.runs import Runs, layout_of, runs_of
from modelkit.tensors import Encoding, Span, Tensor, matrix

if TYPE_CHECKING:
    from modelkit.operations.convert import Prepared
    from modelkit.operations.opening import Opened
    from modelkit.operations.receipt import Errors
    from modelkit.tensors import Array

AGAIN = "this should not happen: please report it, with the layout and the shapes of this tensor"


@dataclass(frozen=True, slots=True)
class Proof:
    """By place in the plan: the differences of every tensor that a layout stores on either side and that was changed.

    `cautions`: what engines may read otherwise.
    """

    errors: Mapping[int, Errors] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def prove(prepared: Prepared) -> Proof:
    """Compare what was written with what was read.

    Raises BrokenFile where what was written is not what the plan says.
    """
    ways = dict(enumerate(prepared.plan.assignments))
    numbers = [number for number, way in ways.items() if _of_layouts(way) and way.source.count]
    if not numbers:
        return Proof()
    written = _written(prepared)
    there = {tensor.name: tensor for tensor in written.model.tensors}
    for number in numbers:
        _check(written, ways[number].target, there)

    def work(number: int, meter: Meter) -> Errors:
        found = _compare(prepared, written, ways[number], there[ways[number].target.name])
        meter.add(ways[number].source.count)
        return found

    changed = [number for number in numbers if ways[number].in_slabs]
    workers = _workers(prepared, [ways[number] for number in changed])
    found = side_by_side(changed, work, lambda number: ways[number].source.count, workers)
    tensors = [there[ways[number].target.name] for number in changed]
    return Proof(dict(zip(changed, found, strict=True)), tuple(_cautions(written, tensors)))


def _cautions(written: Opened, tensors: Sequence[Tensor]) -> Iterator[str]:
    layout = LAYOUTS[written.layout] if written.layout else None
    if layout is not None and layout.cautions is not None:
        yield from layout.cautions(tensors, lambda name: _read(written, written.model.spans[name]))


def _of_layouts(way: Assignment) -> bool:
    return way.in_slabs or bool(layout_of(way.target.encoding))


def _written(prepared: Prepared) -> Opened:
    destination, first = prepared.destination, prepared.plan.layout.files[0].name
    folder = destination.folder and first.endswith((".safetensors", ".json"))
    return read_model(destination.unfinished(None if folder else first))


def _check(written: Opened, planned: Tensor, there: dict[str, Tensor]) -> None:
    found = there.get(planned.name)
    good = found is not None and found.shape == planned.shape and _means(found.encoding, planned.encoding, planned)
    if not good:
        reads = f"{list(found.shape)} in {found.encoding.name}" if found is not None else "nothing"
        message = f"'{planned.name}' was written as {planned.encoding.name} and reads back as {reads}"
        raise BrokenFile(f"{written.opener.title}: {message}", AGAIN)


def _means(found: Encoding, planned: Encoding, tensor: Tensor) -> bool:
    """Zeros that all came to lie in the middle may be read as those of a symmetric weight, and the other way round; a
    group may be called by its size or, where it is all of it, a row."""
    found, planned = (
        replace(each, group=0) if getattr(each, "group", None) == tensor.shape[-1] else each  # type: ignore[type-var]
        for each in (found, planned)
    )
    one, other = (
        replace(each, offset="middle") if hasattr(each, "offset") else each  # type: ignore[type-var]
        for each in (found, planned)
    )
    middle = "middle" in (getattr(found, "offset", None), getattr(planned, "offset", None))
    return found == planned or (middle and one == other)


def _workers(prepared: Prepared, ways: list[Assignment]) -> int:
    """As many as memory allows: each holds what is stored of a tensor, twice, and slabs of values."""
    largest = max((way.source.size + way.target.size for way in ways), default=0) + 8 * 4 * SLAB
    wanted = prepared.request.workers or os.cpu_count() or 1
    return max(1, min(wanted, prepared.request.memory // max(largest, 1)))


def _compare(prepared: Prepared, written: Opened, way: Assignment, target: Tensor) -> Errors:
    """The differences; raises BrokenFile for more than was expected of this way."""
    one, other = _runs(prepared.opened, way.source), _runs(written, target)
    rows, columns = matrix(way.source.shape)
    unit = lcm(*(step.rows for step in way.steps))
    count = max(SLAB // max(columns, 1) // unit, 1) * unit
    largest, squared, total = 0.0, 0.0, 0.0
    for first in range(0, rows, count):
        values = one.values(first, min(count, rows - first))
        for step in way.steps:
            values = step.apply(values)
        found = arrays.difference(values, other.values(first, len(values)))
        largest, squared, total = max(largest, found[0]), squared + found[1], total + found[2]
        if found[0] and way.expectation == "ROUNDED" and not prepared.request.allow_requantize:
            _check_rounding(written, way, one, other, slice(first, first + len(values)))
    if largest and way.expectation == "EXACT":
        message = f"'{way.target.name}' should be the same and reads back {largest:g} off"
        raise BrokenFile(f"{written.opener.title}: {message}", AGAIN)
    return largest, squared, total


def _check_rounding(written: Opened, way: Assignment, one: Runs, other: Runs, rows: slice) -> None:
    """A repack rounds scales and biases and moves no weight farther: that holds for what stands in the file."""
    if repacking(way.source.encoding, way.target.encoding, way.steps) is None:
        return
    count = rows.stop - rows.start
    codes = one.codes(rows.start, count)
    for step in way.steps:
        codes = stepped(codes, step.apply)
    if moves_beyond(codes, other.codes(rows.start, count)):
        message = f"'{way.target.name}' was repacked and reads back farther off than rounding explains"
        raise BrokenFile(f"{written.opener.title}: {message}", AGAIN)


def _runs(opened: Opened, tensor: Tensor) -> Runs:
    return runs_of(tensor, opened.model.spans, lambda span: _read(opened, span))


def _read(opened: Opened, span: Span) -> Array:
    return np.frombuffer(source_of(opened.disk, span.file).read(span.start, span.size), np.uint8)
