"""From floats to codes: how a group's scale follows from its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._scales import SMALLEST_STEP, nearest
from modelkit.encodings._slabs import refuse_nonfinite, slabs
from modelkit.errors import Unsupported
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import Codes

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Grid


def fit(values: F32, grid: Grid, method: str = "rtn", importance: F32 | None = None) -> Codes:
    """Integer codes of whole rows, float32 [row, column]; a group divides the row.

    rtn, as compressed-tensors has it: the scale is the largest magnitude over half the range (15 / 2 of 4 bits),
    or the range of the values, zero among them, over that of the codes; rounded to its dtype, 0 becomes a small
    step. Codes are the nearest to value / stored scale. Raises BadValue for what is not finite.
    """
    if method != "rtn" or grid.offset == "float" or grid.number != "integer":
        raise Unsupported(f"no method '{method}' for {grid}")
    rows, columns = values.shape
    count = 1 if grid.group == 0 else columns // grid.group
    scales = np.empty((rows, count), np.float32)
    zeros = np.empty((rows, count), np.int16) if grid.offset == "integer" else None
    found = np.empty((rows, columns), np.uint8)
    middle = 2 ** (grid.bits - 1)
    whole = _extremes(values.reshape(1, -1)) if grid.tile == 0 else None
    for run in slabs(rows, columns):
        refuse_nonfinite(values[run], "a group of integers", run.start * columns)
        stretch = values[run].reshape(-1, columns // count)  # (group, value)
        low, high = _extremes(stretch) if whole is None else (np.repeat(one, len(stretch)) for one in whole)
        scale, zero = _plain(low, high, grid, columns // count)
        codes = groups.codes(stretch, scale, zero, -middle, middle - 1)  # (group, value), signed
        found[run] = (codes.view(np.uint8) + np.uint8(middle)).reshape(-1, columns)
        scales[run] = scale.reshape(-1, count)
        if zeros is not None and zero is not None:
            zeros[run] = (zero.astype(np.int16) + middle).reshape(-1, count)
    return Codes(grid, found, scales, zeros)


def _extremes(stretch: F32) -> tuple[F32, F32]:
    """The least and the largest value of each group, zero among them."""
    low, high = groups.extremes(stretch)
    return np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))


def _plain(low: F32, high: F32, grid: Grid, each: int) -> tuple[F32, Array | None]:
    """Scales [group], and int8 zeros in the numbering of signed codes."""
    top, middle = np.float32(2**grid.bits - 1), 2 ** (grid.bits - 1)
    half = top / np.float32(2)
    ideal: F32 = (np.maximum(-low, high) / half if grid.offset == "middle" else (high - low) / top).astype(np.float32)
    scale = nearest(ideal, grid.scale, each)
    scale[scale == 0] = SMALLEST_STEP[grid.scale]
    if grid.offset == "middle":
        return scale, None
    zero = np.rint(np.clip(-low / scale, 0, top)) - np.float32(middle)
    return scale, zero.astype(np.int8)
