"""The scales of groups that leave the least squared error, by a search over clipped ranges (method mse).

Of a number of clipped ranges the one is taken whose codes, with the best scale for them, leave the least (weighted)
squared error. Scales of a "middle" grid may be negative: the longer side of the codes lies where it is needed. The root
of squares is that of the best scales there are to within 0.5 %, with zeros 2 % (2 bits: the most).

Then scales grow a little: least squares shrink every group w to a w' with w'.w < w.w, by the share that it loses, and
layer upon layer that adds up where errors that know no direction cancel out. Times w.w / w'.w the weights are off by
hardly more, and what the model predicts by less: 5 to 15 % of KL at 4 bits, a third at 3, half at 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._codes import rounded
from modelkit.encodings._scale_rules import Found, by_rule, integer, middle, usable, with_biases, with_zeros
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32

BOTH = (1.0, 0.94, 0.87, 0.8, 0.72, 0.64)
ONE = (0.92, 0.82, 0.7)
RANGES = (*((clip, clip) for clip in BOTH), *((clip, 1.0) for clip in ONE), *((1.0, clip) for clip in ONE))
"""Shares of a group's lower and upper end that are tried; twice as many gain less than 1 / 300 of the error."""

POLISHED = 3
"""How often the best of them is fitted again to its own codes; it hardly moves after that."""

MOST_GAIN = 1.25
"""Beyond, with 1 bit and with groups of few large values, more would be lost than won."""

LEAST_LOSS = 2.0**-12
"""Less than the half of f16's last place: what lies on a grid stays there."""

LARGEST = 65504.0
"""What f16 holds; scales beyond do not grow."""


def search(x: F32, grid: Grid, weights: F32 | None) -> Found:
    """Try clipped ranges; each time the scale (and bias) that fit the codes best, as they are stored."""
    low, high = groups.extremes(x)
    best = by_rule(x, grid)
    least = _errors(x, best, grid, weights)
    least = _keep_better(best, least, _clipped(x, low, high, grid), (x, grid, weights))  # exact for what is on a grid
    for lower, upper in RANGES:
        tried = _clipped(x, low * np.float32(lower), high * np.float32(upper), grid)
        least = _keep_better(best, least, _refined(x, tried, grid, weights), (x, grid, weights))
    for _ in range(POLISHED):
        least = _keep_better(best, least, _refined(x, best, grid, weights), (x, grid, weights))
    return _at_full_length(x, best, grid, weights)


def _keep_better(best: Found, least: F32, found: Found, of: tuple[F32, Grid, F32 | None]) -> F32:
    """Put into `best` the groups of `found` whose errors are less than `least`; the errors that are least now."""
    errors = _errors(of[0], found, of[1], of[2])
    better = errors < least
    best.codes[better], best.scales[better] = found.codes[better], found.scales[better]
    if best.zeros is not None and found.zeros is not None:
        best.zeros[better] = found.zeros[better]
    if best.biases is not None and found.biases is not None:
        best.biases[better] = found.biases[better]
    return np.where(better, errors, least)


def _clipped(x: F32, low: F32, high: F32, grid: Grid) -> Found:
    if grid.offset == "middle":  # the end that lies farther out becomes the lowest code
        far = np.where(-low > high, low, high)
        return middle(x, (far / -(2 ** (grid.bits - 1))).astype(np.float32), grid)
    if grid.offset == "integer":
        return integer(x, np.minimum(low, 0), np.maximum(high, 0), grid)
    return with_biases(x, (high - low) / np.float32(2**grid.bits - 1), low, grid)


def _refined(x: F32, found: Found, grid: Grid, weights: F32 | None) -> Found:
    """The scale that is best for these codes (least squares), and the codes that are nearest with it."""
    codes = found.codes.astype(np.float32)
    if found.biases is not None:
        return _with_line(x, codes, found, grid, weights)
    codes -= np.float32(2 ** (grid.bits - 1)) if found.zeros is None else found.zeros[:, None].astype(np.float32)
    weighted = codes if weights is None else codes * weights
    above, below = np.einsum("gv,gv->g", weighted, x), np.einsum("gv,gv->g", weighted, codes)
    scales = np.where(below > 0, above / np.where(below > 0, below, 1), found.scales).astype(np.float32)
    if found.zeros is None:
        return middle(x, scales, grid)
    scales = usable(rounded(scales, grid.scale, "scale"), grid)
    return Found(with_zeros(x, scales, found.zeros, grid), scales, found.zeros)


def _with_line(x: F32, codes: F32, found: Found, grid: Grid, weights: F32 | None) -> Found:
    """Scale and bias of the line through the codes that leaves the least squared error."""
    w = np.ones_like(x) if weights is None else weights
    total = np.maximum(w.sum(axis=1), np.float32(1e-30))
    mean_code, mean = np.einsum("gv,gv->g", w, codes) / total, np.einsum("gv,gv->g", w, x) / total
    apart = codes - mean_code[:, None]
    weighted = apart * w
    below = np.einsum("gv,gv->g", weighted, apart)
    slope = np.einsum("gv,gv->g", weighted, x) / np.where(below > 0, below, 1)
    scales = np.where(below > 0, slope, found.scales).astype(np.float32)
    return with_biases(x, scales, (mean - mean_code * scales).astype(np.float32), grid)


def _at_full_length(x: F32, found: Found, grid: Grid, weights: F32 | None) -> Found:
    """The same codes with scales (and biases) that make up for what least squares take from a group's length."""
    weighted = x if weights is None else x * weights
    above, below = np.einsum("gv,gv->g", weighted, x), np.einsum("gv,gv->g", weighted, _values(found, grid))
    shorter = (below > 0) & (below < above * np.float32(1 - LEAST_LOSS))
    gain = np.where(shorter, np.minimum(above / np.where(shorter, below, 1), MOST_GAIN), 1).astype(np.float32)
    figures = [found.scales] if found.biases is None else [found.scales, found.biases]
    for one in figures:
        gain = np.where(np.abs(one) * gain < LARGEST, gain, np.float32(1))
    found.scales = usable(rounded(found.scales * gain, grid.scale, "scale"), grid)
    if found.biases is not None:
        found.biases = rounded(found.biases * gain, grid.scale, "bias")
    return found


def _errors(x: F32, found: Found, grid: Grid, weights: F32 | None) -> F32:
    """The (weighted) squared error of each group."""
    apart = _values(found, grid) - x
    sums: F32 = np.einsum("gv,gv->g", apart if weights is None else apart * weights, apart)
    return sums


def _values(found: Found, grid: Grid) -> F32:
    """float32 [group, value], for comparing: what a file gives back is decoded by `_codes.values`."""
    codes = found.codes.astype(np.float32)
    if found.biases is not None:
        made: F32 = codes * found.scales[:, None] + found.biases[:, None]
        return made
    codes -= np.float32(2 ** (grid.bits - 1)) if found.zeros is None else found.zeros[:, None].astype(np.float32)
    codes *= found.scales[:, None]
    return codes
