"""The scales of quantised weights, looked at as they are stored: how many are zero, negative, very small, too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.rules._contract import Level, Subject
from modelkit.rules._lenses import E4M3, E8M0, FLOATS, Lens
from modelkit.rules._statistics import widened
from modelkit.runs import grouped, runs_of
from modelkit.tensors import Grid, Part, Span, Tensor, matrix

if TYPE_CHECKING:
    from modelkit.tensors import Array

ENDINGS = (".scales", ".scale", ".weight_scale", ".weight_scale_inv", "_scales", ".absmax", ".nested_absmax", ".SCB")
SIZES = (".absmax", ".nested_absmax", ".SCB")
"""What is the size of something: never below zero."""

PIECE = 1 << 20
SAMPLE = 65_536  # bytes at both ends, at level sample
MOST_ROWS = 4  # with scales of zero, whose codes are looked at
LARGEST_CODES = 256 << 20  # bytes of a weight that are read for that
LARGEST_F16, SMALLEST_F16 = 65504.0, 2.0**-14
ACROSS = ("gptq", "awq")
"""Layouts with scales in [group, row]."""


@dataclass
class Scales:
    """The scales of one weight. `places`: the first numbers that are zero; `largest` in magnitude, of f16 alone."""

    tensor: Tensor
    part: Part
    zero: int = 0
    negative: int = 0
    subnormal: int = 0
    bad: int = 0
    largest: float = 0.0
    places: list[int] = field(default_factory=list)

    @property
    def may_be_negative(self) -> bool:
        """Of integer codes a scale may be; NVFP4's kernels have no sign for theirs."""
        return not (self.part.name.endswith(SIZES) or (_grid(self.tensor) or Grid(4, 0, "")).scale == "F8_E4M3")

    @property
    def reaches(self) -> float:
        """The magnitude of the largest code with the largest scale; 0 where the scales are not f16 integers'."""
        grid = _grid(self.tensor)
        if grid is None or grid.number != "integer":
            return 0.0
        steps = 1 << grid.bits - 1 if grid.offset == "middle" else (1 << grid.bits) - 1
        return self.largest * steps


def scales_of(subject: Subject, tensor: Tensor, level: Level) -> Iterator[Scales]:
    """What is found in each array of scales of a weight: in all of it, or at level sample at its two ends."""
    for part in tensor.parts:
        lens = _lens(tensor, part)
        span = subject.model.spans.get(part.name)
        if lens is None or span is None or not span.size or not part.name.endswith(ENDINGS):
            continue
        found, source = Scales(tensor, part), subject.opener.open(span.file)
        for at, size in _pieces(span.size, level):
            data = np.frombuffer(source.read(span.start + at, size), np.uint8)
            _look(found, data[: len(data) // lens.width * lens.width], lens, at // lens.width)
        yield found


def _pieces(size: int, level: Level) -> Iterator[tuple[int, int]]:
    if level == "full" or size <= 2 * SAMPLE:
        yield from ((at, min(PIECE, size - at)) for at in range(0, size, PIECE))
    else:
        yield from ((0, SAMPLE), ((size - SAMPLE) // 8 * 8, SAMPLE))


def _lens(tensor: Tensor, part: Part) -> Lens | None:
    """How its numbers are read; None for what are no scales (codes of nested ones)."""
    if part.dtype != "U8":
        return FLOATS.get(part.dtype)
    grid = _grid(tensor)
    return None if grid is None else {"E8M0": E8M0, "F8_E8M0": E8M0, "F8_E4M3": E4M3}.get(grid.scale)


def _grid(tensor: Tensor) -> Grid | None:
    encoding = grouped(tensor.encoding)
    return None if encoding is None else encoding.grid


def _look(found: Scales, data: Array, lens: Lens, first: int) -> None:
    stored = data.view(f"<u{lens.width}")
    sizes = stored & stored.dtype.type((1 << 8 * lens.width - lens.sign) - 1)
    if lens.sign:
        zero = sizes == 0
        found.zero += int(np.count_nonzero(zero))
        if found.zero and len(found.places) < MOST_ROWS:
            found.places += [first + int(place) for place in np.flatnonzero(zero)[:MOST_ROWS]]
        found.negative += int(np.count_nonzero((sizes != stored) & ~zero & (sizes < lens.nan)))
    if found.part.dtype == "U8":
        found.bad += int(np.count_nonzero(sizes >= lens.nan)) if found.part.name.endswith(".scales") else 0
    if found.part.dtype == "F16":
        found.subnormal += int(np.count_nonzero((sizes < 0x0400) & (sizes > 0)))
        finite = sizes[sizes <= lens.largest]
        if len(finite):
            largest = np.array([finite.max()], "<u2").view(np.uint8)
            found.largest = max(found.largest, float(widened(largest, "F16")[0]))


def lost_rows(subject: Subject, found: Scales) -> list[int]:
    """Rows with a scale of zero whose codes are not all alike there: of the first few, those where weights are lost.

    A group that is zero throughout has equal codes and may have any scale.
    """
    tensor = found.tensor
    if grouped(tensor.encoding) is None or tensor.size > LARGEST_CODES or len(tensor.shape) != 2:
        return []

    def read(span: Span) -> Array:
        return np.frombuffer(subject.opener.open(span.file).read(span.start, span.size), np.uint8)

    runs = runs_of(tensor, subject.model.spans, read)
    rows = dict.fromkeys(_row(found, place) for place in found.places[:MOST_ROWS])
    lost = []
    for row in rows:
        codes = runs.codes(row, 1)
        groups = codes.groups
        if groups is None:
            size = codes.grid.group or tensor.shape[1]
            groups = np.arange(tensor.shape[1]) // size
        own = codes.codes[0] & np.uint8(0xFF if codes.grid.number == "integer" else 2 ** (codes.grid.bits - 1) - 1)
        if any(len(np.unique(own[groups == one])) > 1 for one in np.flatnonzero(codes.scales[0] == 0)):
            lost.append(row)
    return lost


def _row(found: Scales, place: int) -> int:
    """The row of the weight that a number of the scales is for."""
    rows = matrix(found.tensor.shape)[0]
    shape, grid = found.part.shape, _grid(found.tensor)
    tile = 1 if grid is None else grid.tile
    if tile == 0 or len(shape) < 2:
        return 0 if tile == 0 else min(place * tile, rows - 1)
    across = getattr(found.tensor.encoding, "layout", "") in ACROSS and shape[1] == rows
    return place % rows if across else min(place // shape[1] * tile, rows - 1)
