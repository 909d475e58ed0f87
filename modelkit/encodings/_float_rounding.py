"""From floats to small floats: scales as compressed-tensors has them, codes rounded to nearest even.

    float scale  max|x| / 448                                           of e4m3
    E8M0         a power of two: max|x| with its fraction rounded up from 1.75 (of e2m3: from 1.9375), over 4 or 256
    F8_E4M3      max|x| / 6 times 2688 / max|x| of the whole tensor     (NVFP4; 2688 = 6 * 448)

A scale of 0 becomes a small step of its dtype. Codes are those of value / stored scale, cut to the largest float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._codes import rounded
from modelkit.encodings._f8 import narrow, widen
from modelkit.encodings._grouped import groups_of
from modelkit.encodings._slabs import SLAB, refuse_nonfinite
from modelkit.errors import BadValue
from modelkit.lazy import np
from modelkit.tensors import Codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelkit.tensors import F32, Array, Grid

KINDS = {"e2m1": "float4_e2m1fn", "e2m3": "float6_e2m3fn", "e4m3": "float8_e4m3fn"}
LARGEST = {"e2m1": 6.0, "e2m3": 7.5, "e4m3": 448.0}
SMALLEST_STEP = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23, "F8_E4M3": 2.0**-3}
"""What compressed-tensors stores for a scale of 0."""


def quantised(values: F32, grid: Grid) -> Codes:
    """float32 [row, column] as codes of a grid of small floats. Raises BadValue for what is not finite."""
    rows, columns = values.shape
    codes = np.empty(values.shape, np.uint8)
    scales = np.empty((rows, groups_of(columns, grid.group)), np.float32)
    for run in _runs(grid, rows, columns):
        refuse_nonfinite(values[run].reshape(-1), f"a group of {grid.number}", run.start * columns)
    whole = max((np.abs(values[run]).max(initial=0) for run in _runs(grid, rows, columns)), default=np.float32(0))
    divisor = _divisor(whole) if grid.scale == "F8_E4M3" else np.float32(1)
    for run in _runs(grid, rows, columns):
        largest = np.full(scales[run].shape, whole, np.float32) if grid.tile == 0 else _largest(values[run], grid)
        try:
            scales[run] = _scales(largest, grid, divisor)
        except BadValue as error:  # its index counts groups
            row, group = divmod(error.index, scales.shape[1])
            index = (run.start + row) * columns + group * grid.group
            raise BadValue(error.message, error.fix, index) from None
        codes[run] = _codes_of(values[run], scales[run], grid, divisor)
    return Codes(grid, codes, scales, divisor=float(divisor))


def _runs(grid: Grid, rows: int, columns: int) -> Iterator[slice]:
    """About a slab of values each, whole tiles."""
    tile = max(grid.tile, 1)
    size = max(SLAB // max(columns, 1) // tile, 1) * tile
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def _largest(values: F32, grid: Grid) -> F32:
    """The largest magnitude of each row's groups, shared by the rows of a tile: float32 [row, group]."""
    sizes = np.abs(values)
    starts = np.arange(0, values.shape[1], grid.group or values.shape[1])
    found: F32 = np.maximum.reduceat(sizes, starts, axis=1)
    if grid.tile > 1:
        tops = np.maximum.reduceat(found, np.arange(0, len(found), grid.tile), axis=0)
        found = np.repeat(tops, grid.tile, axis=0)[: len(found)]
    return found


def _divisor(largest: np.float32) -> np.float32:
    """What brings the largest scale of a tensor to the end of e4m3's range; 1 where there is none."""
    with np.errstate(all="ignore"):
        found = np.float32(2688) / np.maximum(largest, np.finfo(np.float32).tiny)
    return np.float32(found) if np.isfinite(found) else np.float32(1)


def _scales(largest: F32, grid: Grid, divisor: np.float32) -> F32:
    if grid.scale == "E8M0":
        return _powers(largest, grid)
    figures: F32 = largest / np.float32(LARGEST[grid.number])
    if grid.scale == "F8_E4M3":
        scaled = np.minimum(figures * divisor, np.float32(448))
        found = widen(narrow(scaled.reshape(-1), KINDS["e4m3"]), KINDS["e4m3"]).reshape(largest.shape)
    else:
        found = rounded(figures, grid.scale, "scale")
    found[found == 0] = SMALLEST_STEP[grid.scale]
    return found


def _powers(largest: F32, grid: Grid) -> F32:
    """The exponent of a magnitude once its fraction is rounded to one bit (e2m3: to three), less the type's own."""
    up = np.uint32(1 << (19 if grid.number == "e2m3" else 21))
    exponents = ((largest.view(np.uint32) + up) >> np.uint32(23)).astype(np.int32)  # biased, as E8M0 has it
    stored = np.clip(exponents - (8 if grid.number == "e4m3" else 2), 0, 254)
    powers: F32 = np.ldexp(np.float32(1), stored - 127)
    return powers


def _codes_of(values: F32, scales: F32, grid: Grid, divisor: np.float32) -> Array:
    end = np.float32(LARGEST[grid.number])
    by = scales / divisor if grid.overall != "none" else scales
    wide = by if by.shape[1] == 1 else np.repeat(by, grid.group, axis=1)[:, : values.shape[1]]
    with np.errstate(all="ignore"):
        quotients: F32 = np.clip(values / wide, -end, end)
    return narrow(np.ascontiguousarray(quotients).reshape(-1), KINDS[grid.number]).reshape(values.shape)
