"""From floats to codes: the scales and zeros of groups of integers, by rule or by search.

    rtn  round to nearest, scales from the extremes of a group as the libraries have it:
         middle   s = max|x| / (2**bits - 1) * 2                       (compressed-tensors, AutoGPTQ)
         integer  s = (max - min) / (2**bits - 1), z = round(-min / s)    (both, AutoAWQ); 0 lies within min..max
         float    s from min and max, moved so that the larger end and 0 are codes   (MLX)
    mse  of a number of clipped ranges the one whose codes, with the best scale for them, leave the least (weighted)
         squared error. Scales of a "middle" grid may be negative: the longer side of the codes lies where it is needed.
         Its root of squares is that of the best scales there are to within 0.5 %, with zeros 2 % (2 bits: the most).

Codes are found with the scales as they are stored, rounded to their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from modelkit.encodings._codes import rounded
from modelkit.encodings._slabs import refuse_nonfinite, slabs
from modelkit.errors import BadValue, Unsupported
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

Method = Literal["rtn", "mse"]
METHODS: tuple[Method, ...] = ("rtn", "mse")

SMALLEST_STEP = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
"""By dtype, what compressed-tensors stores for a scale of 0: the step of floats above 1."""

BOTH = (1.0, 0.94, 0.87, 0.8, 0.72, 0.64)
ONE = (0.92, 0.82, 0.7)
RANGES = (*((clip, clip) for clip in BOTH), *((clip, 1.0) for clip in ONE), *((1.0, clip) for clip in ONE))
"""Shares of a group's lower and upper end that are tried; twice as many gain less than 1 / 300 of the error."""

POLISHED = 3
"""How often the best of them is fitted again to its own codes; it hardly moves after that."""


@dataclass(slots=True)
class _Found:
    """Codes of a run of groups: uint8 [group, value], float32 [group], int16 [group] or None, float32 or None."""

    codes: Array
    scales: F32
    zeros: Array | None = None
    biases: F32 | None = None


def fit(values: F32, grid: Grid, method: Method = "rtn", importance: F32 | None = None) -> Codes:
    """float32 [row, column] as codes of an integer grid whose group divides the columns.

    `importance`: float32 [column], how much an error in each column matters; `rtn` does not ask.
    Raises BadValue for what is not finite and for scales that overflow their dtype, Unsupported for other grids.
    """
    rows, columns = values.shape
    if grid.tile == 0 and values.size:
        return _one_for_all(values, grid, method, importance)
    group = grid.group or columns
    if grid.number != "integer" or grid.mapped or grid.tile not in (0, 1) or columns % group:
        raise Unsupported(f"codes of {grid} are not found by this search")
    of_row = columns // group
    x = np.ascontiguousarray(values, np.float32).reshape(-1, group)  # (group, value)
    weights = None if importance is None or method == "rtn" else importance.reshape(of_row, group)
    made = _Found(
        np.empty(x.shape, np.uint8),
        np.empty(len(x), np.float32),
        np.empty(len(x), np.int16) if grid.offset == "integer" else None,
        np.empty(len(x), np.float32) if grid.offset == "float" else None,
    )
    for run in _runs(len(x), of_row, group, weighted=weights is not None):
        refuse_nonfinite(x[run].reshape(-1), "a group of codes", run.start * group)
        w = None if weights is None else np.tile(weights, ((run.stop - run.start) // of_row, 1))
        try:
            found = _search(x[run], grid, w) if method == "mse" else _by_rule(x[run], grid)
        except BadValue as error:  # its index counts groups
            raise BadValue(error.message, error.fix, (run.start + error.index) * group) from None
        made.codes[run], made.scales[run] = found.codes, found.scales
        if made.zeros is not None:
            made.zeros[run] = found.zeros
        if made.biases is not None:
            made.biases[run] = found.biases
    zeros = None if made.zeros is None else made.zeros.reshape(rows, of_row)
    biases = None if made.biases is None else made.biases.reshape(rows, of_row)
    return Codes(grid, made.codes.reshape(rows, columns), made.scales.reshape(rows, of_row), zeros, biases)


def _one_for_all(values: F32, grid: Grid, method: Method, importance: F32 | None) -> Codes:
    """One scale for the whole tensor: it is one long row, whose scale every row shows."""
    rows, columns = values.shape
    weights = None if importance is None else np.tile(importance, rows)
    found = fit(values.reshape(1, -1), replace(grid, group=0, tile=1), method, weights)
    scales, zeros = np.repeat(found.scales, rows, axis=0), found.zeros
    biases = None if found.biases is None else np.repeat(found.biases, rows, axis=0)
    zeros = None if zeros is None else np.repeat(zeros, rows, axis=0)
    return Codes(grid, found.codes.reshape(rows, columns), scales, zeros, biases)


def _runs(count: int, of_row: int, group: int, *, weighted: bool) -> Iterator[slice]:
    """Runs of groups, of whole rows where each row has the same weights."""
    if not weighted:
        yield from slabs(count, group)
        return
    for run in slabs(count // of_row, of_row * group):
        yield slice(run.start * of_row, run.stop * of_row)


def _by_rule(x: F32, grid: Grid) -> _Found:
    low, high = groups.extremes(x)
    top = np.float32(2**grid.bits - 1)
    if grid.offset == "middle":
        return _middle(x, (np.maximum(-low, high) * 2 / top).astype(np.float32), grid)
    if grid.offset == "integer":
        return _integer(x, np.minimum(low, 0), np.maximum(high, 0), grid)
    return _float(x, low, high, grid)


def _middle(x: F32, scales: F32, grid: Grid) -> _Found:
    half = 2 ** (grid.bits - 1)
    scales = _usable(rounded(scales, grid.scale, "scale"), grid)
    codes = groups.codes(x, scales, None, -half, half - 1)
    return _Found((codes.view(np.uint8) + np.uint8(half)).astype(np.uint8), scales)


def _integer(x: F32, low: F32, high: F32, grid: Grid) -> _Found:
    scales = _usable(rounded((high - low) / np.float32(2**grid.bits - 1), grid.scale, "scale"), grid)
    zeros = np.clip(np.rint(-low / scales), 0, 2**grid.bits - 1).astype(np.int16)
    return _Found(_with_zeros(x, scales, zeros, grid), scales, zeros)


def _with_zeros(x: F32, scales: F32, zeros: Array, grid: Grid) -> Array:
    """Codes 0 .. 2**bits - 1; the kernel's are signed, so that all of 8 bits fit when moved by half."""
    half = 2 ** (grid.bits - 1)
    codes = groups.codes(x, scales, (zeros - half).astype(np.int8), -half, half - 1)
    shifted: Array = codes.view(np.uint8) + np.uint8(half)
    return shifted


def _float(x: F32, low: F32, high: F32, grid: Grid) -> _Found:
    """MLX: the end that lies farther from 0 is the bias, and the scale is moved so that 0 is a code."""
    far_low = np.abs(low) > np.abs(high)
    scales = np.maximum((high - low) / np.float32(2**grid.bits - 1), np.float32(1e-7))
    scales = np.where(far_low, scales, -scales)
    edge = np.where(far_low, low, high)
    steps = np.rint(edge / scales)
    scales = np.where(steps != 0, edge / np.where(steps == 0, 1, steps), scales).astype(np.float32)
    biases = np.where(steps != 0, edge, 0).astype(np.float32)
    return _with_biases(x, scales, biases, grid)


def _with_biases(x: F32, scales: F32, biases: F32, grid: Grid) -> _Found:
    scales = _usable(rounded(scales, grid.scale, "scale"), grid)
    biases = rounded(biases, grid.scale, "bias")
    half = 2 ** (grid.bits - 1)
    moved = (x - biases[:, None]) - np.float32(half) * scales[:, None]
    codes = groups.codes(moved.astype(np.float32), scales, None, -half, half - 1)
    return _Found(codes.view(np.uint8) + np.uint8(half), scales, None, biases)


def _usable(scales: F32, grid: Grid) -> F32:
    """No scale is 0: a small step takes its place, as in compressed-tensors."""
    return np.where(scales == 0, np.float32(SMALLEST_STEP[grid.scale]), scales)


def _search(x: F32, grid: Grid, weights: F32 | None) -> _Found:
    """Try clipped ranges; each time the scale (and bias) that fit the codes best, as they are stored."""
    low, high = groups.extremes(x)
    best = _by_rule(x, grid)
    least = _errors(x, best, grid, weights)
    for lower, upper in RANGES:
        tried = _clipped(x, low * np.float32(lower), high * np.float32(upper), grid)
        least = _keep_better(best, least, _refined(x, tried, grid, weights), (x, grid, weights))
    for _ in range(POLISHED):
        least = _keep_better(best, least, _refined(x, best, grid, weights), (x, grid, weights))
    return best


def _keep_better(best: _Found, least: F32, found: _Found, of: tuple[F32, Grid, F32 | None]) -> F32:
    """Put into `best` the groups of `found` whose errors are less than `least`; the errors that are least now."""
    errors = _errors(of[0], found, of[1], of[2])
    better = errors < least
    best.codes[better], best.scales[better] = found.codes[better], found.scales[better]
    if best.zeros is not None and found.zeros is not None:
        best.zeros[better] = found.zeros[better]
    if best.biases is not None and found.biases is not None:
        best.biases[better] = found.biases[better]
    return np.where(better, errors, least)


def _clipped(x: F32, low: F32, high: F32, grid: Grid) -> _Found:
    if grid.offset == "middle":  # the end that lies farther out becomes the lowest code
        far = np.where(-low > high, low, high)
        return _middle(x, (far / -(2 ** (grid.bits - 1))).astype(np.float32), grid)
    if grid.offset == "integer":
        return _integer(x, np.minimum(low, 0), np.maximum(high, 0), grid)
    return _with_biases(x, (high - low) / np.float32(2**grid.bits - 1), low, grid)


def _refined(x: F32, found: _Found, grid: Grid, weights: F32 | None) -> _Found:
    """The scale that is best for these codes (least squares), and the codes that are nearest with it."""
    codes = found.codes.astype(np.float32)
    if found.biases is not None:
        return _with_line(x, codes, found, grid, weights)
    codes -= np.float32(2 ** (grid.bits - 1)) if found.zeros is None else found.zeros[:, None].astype(np.float32)
    weighted = codes if weights is None else codes * weights
    above, below = np.einsum("gv,gv->g", weighted, x), np.einsum("gv,gv->g", weighted, codes)
    scales = np.where(below > 0, above / np.where(below > 0, below, 1), found.scales).astype(np.float32)
    if found.zeros is None:
        return _middle(x, scales, grid)
    scales = _usable(rounded(scales, grid.scale, "scale"), grid)
    return _Found(_with_zeros(x, scales, found.zeros, grid), scales, found.zeros)


def _with_line(x: F32, codes: F32, found: _Found, grid: Grid, weights: F32 | None) -> _Found:
    """Scale and bias of the line through the codes that leaves the least squared error."""
    w = np.ones_like(x) if weights is None else weights
    total = np.maximum(w.sum(axis=1), np.float32(1e-30))
    mean_code, mean = np.einsum("gv,gv->g", w, codes) / total, np.einsum("gv,gv->g", w, x) / total
    apart = codes - mean_code[:, None]
    weighted = apart * w
    below = np.einsum("gv,gv->g", weighted, apart)
    slope = np.einsum("gv,gv->g", weighted, x) / np.where(below > 0, below, 1)
    scales = np.where(below > 0, slope, found.scales).astype(np.float32)
    return _with_biases(x, scales, (mean - mean_code * scales).astype(np.float32), grid)


def _errors(x: F32, found: _Found, grid: Grid, weights: F32 | None) -> F32:
    """The (weighted) squared error of each group."""
    codes = found.codes.astype(np.float32)
    if found.biases is not None:
        apart = codes * found.scales[:, None] + found.biases[:, None] - x
    else:
        zeros = np.float32(2 ** (grid.bits - 1)) if found.zeros is None else found.zeros[:, None].astype(np.float32)
        apart = (codes - zeros) * found.scales[:, None] - x
    sums: F32 = np.einsum("gv,gv->g", apart if weights is None else apart * weights, apart)
    return sums
