"""From floats to the small floats of MLX's modes: scales and codes by the rules of `mlx.core.quantize`.

e8m0  the smallest power of two with which the largest value of a group stays within the type: no code is cut
e4m3  max|x| / 6, rounded to nearest even
e2m1  the nearest of the sixteen, of two equally near ones the smaller
e4m3  rounded to nearest even
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._codes import small_floats
from modelkit.encodings._f8 import narrow, widen
from modelkit.encodings._slabs import out_of_range, refuse_nonfinite
from modelkit.lazy import np
from modelkit.tensors import Codes

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Grid

LARGEST = {"e2m1": 6.0, "e4m3": 448.0}


def fit(values: F32, grid: Grid, first: int = 0) -> Codes:
    """float32 [row, column] as codes of a grid of small floats; `first`: the place of the run in its tensor.

    Raises BadValue for what is not finite.
    """
    refuse_nonfinite(values.reshape(-1), f"a group of {grid.number}", first)
    if grid.scale == "F8_E4M3":
        beyond = np.abs(values) > np.float32(LARGEST["e4m3"] * LARGEST["e2m1"])
        if beyond.any():
            raise out_of_range(values, beyond, "nvfp4 without a scale for the whole tensor holds at most 2,688", first)
    grouped = values.reshape(len(values), -1, grid.group)  # (row, group, value)
    scales = _scales(np.abs(grouped).max(axis=2) / np.float32(LARGEST[grid.number]), grid)
    with np.errstate(all="ignore"):
        x: F32 = np.divide(grouped, np.where(scales == 0, np.float32(np.inf), scales)[:, :, None], dtype=np.float32)
    found = _nearest(x) if grid.number == "e2m1" else narrow(x.reshape(-1), "float8_e4m3fn")
    return Codes(grid, found.reshape(values.shape), scales)


def _scales(figures: F32, grid: Grid) -> F32:
    if grid.scale == "E8M0":
        fraction, exponent = np.frexp(figures)  # figure = fraction * 2**exponent, 0.5 <= fraction < 1
        power = np.where(fraction == 0.5, exponent - 1, exponent)
        power = np.where(figures == 0, 0, np.clip(power, -127, 127))
        powers: F32 = np.ldexp(np.float32(1), power)
        return powers
    return widen(narrow(figures.reshape(-1), "float8_e4m3fn"), "float8_e4m3fn").reshape(figures.shape)


def _nearest(x: F32) -> Array:
    """The codes of the nearest e2m1 floats, the smaller of two: uint8, shaped as `x`."""
    table = small_floats("e2m1")[:8]
    middles = (table[:-1] + table[1:]) / 2
    codes = np.searchsorted(middles, np.abs(x).reshape(-1), side="left").astype(np.uint8)
    negative = (x.reshape(-1) < 0) & (codes > 0)
    found: Array = (codes | (negative.astype(np.uint8) << np.uint8(3))).reshape(x.shape)
    return found
