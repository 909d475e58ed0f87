"""Codes of groups with given scales, and the scales that the libraries' own rules give. s scale, z zero, b bits:

middle   s = max|x| / (2**b - 1) * 2                       (compressed-tensors, AutoGPTQ)
integer  s = (max - min) / (2**b - 1), z = round(-min / s)    (both, AutoAWQ); 0 lies within min..max
float    s from min and max, moved so that the larger end and 0 are codes   (MLX)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.encodings._codes import rounded
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SMALLEST_STEP = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
"""By dtype, what compressed-tensors stores for a scale of 0: the step of floats above 1."""


@dataclass(slots=True)
class Found:
    """Codes of a run of groups: uint8 [group, value], float32 [group], int16 [group] or None, float32 or None."""

    codes: Array
    scales: F32
    zeros: Array | None = None
    biases: F32 | None = None


def by_rule(x: F32, grid: Grid) -> Found:
    low, high = groups.extremes(x)
    top = np.float32(2**grid.bits - 1)
    if grid.offset == "middle":
        return middle(x, (np.maximum(-low, high) * 2 / top).astype(np.float32), grid)
    if grid.offset == "integer":
        return integer(x, np.minimum(low, 0), np.maximum(high, 0), grid)
    return _float(x, low, high, grid)


def middle(x: F32, scales: F32, grid: Grid) -> Found:
    half = 2 ** (grid.bits - 1)
    scales = usable(rounded(scales, grid.scale, "scale"), grid)
    codes = groups.codes(x, scales, None, -half, half - 1)
    return Found((codes.view(np.uint8) + np.uint8(half)).astype(np.uint8), scales)


def integer(x: F32, low: F32, high: F32, grid: Grid) -> Found:
    scales = usable(rounded((high - low) / np.float32(2**grid.bits - 1), grid.scale, "scale"), grid)
    zeros = np.clip(np.rint(-low / scales), 0, 2**grid.bits - 1).astype(np.int16)
    return Found(with_zeros(x, scales, zeros, grid), scales, zeros)


def with_zeros(x: F32, scales: F32, zeros: Array, grid: Grid) -> Array:
    """Codes 0 .. 2**bits - 1; the kernel's are signed, so that all of 8 bits fit when moved by half."""
    half = 2 ** (grid.bits - 1)
    codes = groups.codes(x, scales, (zeros - half).astype(np.int8), -half, half - 1)
    shifted: Array = codes.view(np.uint8) + np.uint8(half)
    return shifted


def _float(x: F32, low: F32, high: F32, grid: Grid) -> Found:
    """MLX: the end that lies farther from 0 is the bias, and the scale is moved so that 0 is a code."""
    far_low = np.abs(low) > np.abs(high)
    scales = np.maximum((high - low) / np.float32(2**grid.bits - 1), np.float32(1e-7))
    scales = np.where(far_low, scales, -scales)
    edge = np.where(far_low, low, high)
    steps = np.rint(edge / scales)
    scales = np.where(steps != 0, edge / np.where(steps == 0, 1, steps), scales).astype(np.float32)
    biases = np.where(steps != 0, edge, 0).astype(np.float32)
    return with_biases(x, scales, biases, grid)


def with_biases(x: F32, scales: F32, biases: F32, grid: Grid) -> Found:
    scales = usable(rounded(scales, grid.scale, "scale"), grid)
    biases = rounded(biases, grid.scale, "bias")
    half = 2 ** (grid.bits - 1)
    moved = (x - biases[:, None]) - np.float32(half) * scales[:, None]
    codes = groups.codes(moved.astype(np.float32), scales, None, -half, half - 1)
    return Found(codes.view(np.uint8) + np.uint8(half), scales, None, biases)


def usable(scales: F32, grid: Grid) -> F32:
    """No scale is 0: a small step takes its place, as in compressed-tensors."""
    return np.where(scales == 0, np.float32(SMALLEST_STEP[grid.scale]), scales)
