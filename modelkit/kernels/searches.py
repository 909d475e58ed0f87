"""How ggml finds scales: the searches of its K-types, in numpy, for many sub-blocks at once.

Every array is (value, sub-block): a column is one sub-block, an operation on a row is one step of the
search in all of them. float32 in ggml's order: sums go over the values one after the other, nothing is
fused, a comparison with NaN is false. The numbers and loops are those of ggml-quants.c (make_qkx2_quants,
make_qkx3_quants, make_qx_quants, make_q3_quants, make_qp_quants); the C kernels do the same per lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

MAGIC = 12_582_912.0  # 1.5 * 2^23: added to a float below 2^22 it leaves the nearest integer in the mantissa
EXACT = 4_194_304.0  # 2^22, where that ends
ROUNDS = 5  # in which single codes may still move
TINY = 1e-15  # a sub-block whose largest magnitude is smaller counts as zero


@dataclass(frozen=True, slots=True)
class Fit:
    """value = scale * code - minimum, for each column; codes are nearest(inverse * (x - origin))."""

    scale: F32
    minimum: F32
    inverse: F32
    origin: F32
    levels: int

    def codes(self, x: F32) -> Array:
        """uint8, 0 in a column without a range."""
        found = nearest(self.inverse * (x - self.origin)).clip(0, self.levels)
        return np.where(self.inverse == 0, 0, found).astype(np.uint8)


def nearest(x: F32) -> Array:
    """int32: half to even; the garbage that ggml's trick leaves for NaN and beyond 2^22 is the same garbage."""
    bits: Array = (x + np.float32(MAGIC)).view(np.int32)
    return (bits & 0x7FFFFF) - 0x400000


def total(x: F32) -> F32:
    """The sum of each column, one value after the other from 0 on: never -0, as where ggml's loop begins with 0."""
    return _summed(x, 0.0)


def summed_from_first(x: F32) -> F32:
    """The sum of each column, where ggml's loop begins with the first value: -0 when all are."""
    return _summed(x, -0.0)  # changes no value that is added to it


def _summed(x: F32, first: float) -> F32:
    if x.shape[1] == 1:  # numpy sums what lies in one run in pairs: a lone column, or columns that are contiguous
        summed: F32 = np.add.accumulate(x, axis=0)[-1] + np.float32(first)
    else:
        summed = np.add.reduce(np.ascontiguousarray(x), axis=0, initial=np.float32(first))
    return summed


def lowest(values: F32) -> F32:
    """The minimum of each column; of 0 and -0 the one that comes first, as ggml's loop finds it."""
    low: F32 = values.min(axis=0)
    zero = np.flatnonzero(low == 0)
    if len(zero):
        low[zero] = values[values[:, zero].argmin(axis=0), zero]
    return low


def largest_magnitude(x: F32) -> tuple[F32, F32]:
    """Of each column the largest magnitude, and the first value that has it, with its sign."""
    high, low = x.max(axis=0), x.min(axis=0)
    largest = np.where(high > -low, high, low)
    both = np.flatnonzero(high == -low)
    if len(both):
        largest[both] = x[np.abs(x[:, both]).argmax(axis=0), both]
    return np.abs(largest), largest


def scale_and_minimum(
    x: F32, weights: F32, levels: int, *, start: float, step: float, steps: int, absolute: bool = False
) -> Fit:
    """The weighted least-squares line through (code, x) that errs least among `steps` + 1 trial scales.

    The minimum found so far bends the next trial. `absolute`: the error is |difference|, not its square.
    """
    f32 = np.float32
    low, high = lowest(x), x.max(axis=0)
    least = np.where(low > 0, f32(0), low)
    sum_w, sum_x = summed_from_first(weights), summed_from_first(weights * x)
    codes, work, other = np.empty_like(x), np.empty_like(x), np.empty_like(x)

    def error(scale: F32, minimum: F32) -> F32:
        np.multiply(codes, scale, out=work)
        np.add(work, minimum, out=work)
        np.subtract(work, x, out=work)
        (np.abs(work, out=work) if absolute else np.multiply(work, work, out=work))
        np.multiply(work, weights, out=work)
        return total(work)

    inverse = f32(levels) / (high - least)
    scale, minimum, best_inverse, best_origin = f32(1) / inverse, least, inverse, least
    _trial(x, low, high, inverse, minimum, levels, codes)
    best = error(scale, minimum)
    for trial in range(steps + 1):
        inverse = (f32(start) + f32(step) * f32(trial) + f32(levels)) / (high - minimum)
        _trial(x, low, high, inverse, minimum, levels, codes)
        np.multiply(weights, codes, out=work)
        sum_l = total(work)
        sum_l2 = total(np.multiply(work, codes, out=other))
        sum_xl = total(np.multiply(work, x, out=other))
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = np.divide(sum_w * sum_xl - sum_x * sum_l, determinant, dtype=f32)
        this_minimum = np.divide(sum_l2 * sum_x - sum_l * sum_xl, determinant, dtype=f32)
        above = this_minimum > 0
        this_scale[above] = (sum_xl / sum_l2)[above]
        this_minimum[above] = 0
        now = error(this_scale, this_minimum)
        better = (determinant > 0) & (now < best)
        best = np.where(better, now, best)
        scale = np.where(better, this_scale, scale)
        best_inverse = np.where(better, inverse, best_inverse)
        best_origin = np.where(better, minimum, best_origin)
        minimum = np.where(better, this_minimum, minimum)
    flat = high == least
    zero = f32(0)
    return Fit(
        np.where(flat, zero, scale), -np.where(flat, least, minimum), np.where(flat, zero, best_inverse), best_origin,
        levels,
    )  # fmt: skip


def _trial(x: F32, low: F32, high: F32, inverse: F32, origin: F32, levels: int, codes: F32) -> None:
    """codes = nearest(inverse * (x - origin)), cut to 0..levels, as floats."""
    np.subtract(x, origin, out=codes)
    np.multiply(codes, inverse, out=codes)
    reach = np.maximum(np.abs((low - origin) * inverse), np.abs((high - origin) * inverse))
    if (reach < EXACT).all():
        np.add(codes, np.float32(MAGIC), out=codes)
        np.subtract(codes, np.float32(MAGIC), out=codes)
        np.clip(codes, np.float32(0), np.float32(levels), out=codes)
    else:  # NaN too: a column whose minimum has met its maximum
        codes[:] = nearest(codes).clip(0, levels)


@dataclass(frozen=True, slots=True)
class SignedFit:
    """value = scale * (code - half), for each column; codes are half + nearest(inverse * x)."""

    scale: F32
    inverse: F32
    half: int

    def codes(self, x: F32) -> Array:
        """uint8 0..2 half - 1; 0 in a column that counts as zero."""
        found = nearest(self.inverse * x).clip(-self.half, self.half - 1) + self.half
        return np.where(self.inverse == 0, 0, found).astype(np.uint8)


def signed_scale(x: F32, weights: F32, half: int) -> SignedFit:
    """The scale through zero that errs least, weighted, among 19 around -half / (the value of largest magnitude)."""
    f32 = np.float32
    size, largest = largest_magnitude(x)
    weighted = weights * x
    work, other = np.empty_like(x), np.empty_like(x)

    def sums(inverse: F32) -> tuple[F32, F32]:
        np.multiply(x, inverse, out=work)  # at most half + 0.9, or NaN in a column of zeros, which is dead below
        np.rint(work, out=work)
        np.clip(work, f32(-half), f32(half - 1), out=work)
        along = total(np.multiply(weighted, work, out=other))
        np.multiply(weights, work, out=other)
        return along, total(np.multiply(other, work, out=other))

    best_inverse = f32(-half) / largest
    sum_lx, sum_l2 = sums(best_inverse)
    scale = np.where(sum_l2 != 0, sum_lx / sum_l2, f32(0))
    best = scale * sum_lx
    for trial in (*range(-9, 0), *range(1, 10)):
        inverse = -(f32(half) + f32(0.1) * f32(trial)) / largest
        sum_lx, sum_l2 = sums(inverse)
        better = np.flatnonzero((sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2))
        scale[better] = sum_lx[better] / sum_l2[better]
        best[better] = scale[better] * sum_lx[better]
        best_inverse[better] = inverse[better]
    dead = size < f32(TINY)
    return SignedFit(np.where(dead, f32(0), scale), np.where(dead, f32(0), best_inverse), half)


def refined_scale(x: F32, half: int) -> tuple[F32, Array]:
    """The scale through zero and uint8 codes 0..2 half - 1: up to five rounds in which each code may move in turn.

    Weights are x^2. Most codes stay: instead of one value after the other, all that would move by the sums as they
    are now are looked for at once, and of each column the first one whose turn comes moves.
    """
    f32 = np.float32
    size, largest = largest_magnitude(x)
    weights = x * x
    weighted = weights * x
    codes = x * (f32(-half) / largest)  # at most half, or NaN in a column of zeros, which is dead below
    np.clip(np.rint(codes, out=codes), f32(-half), f32(half - 1), out=codes)
    work = weighted * codes
    sum_lx = total(work)
    sum_l2 = total(np.multiply(np.multiply(weights, codes, out=work), codes, out=work))
    state = (x, weights, weighted, codes, sum_lx, sum_l2)
    active = np.arange(x.shape[1])
    turn = np.zeros(x.shape[1], np.intp)  # whose it is: five rounds of len(x), counted through
    while len(active):
        some = state if len(active) == x.shape[1] else tuple(values[..., active] for values in state)
        moves = _moves(half, *some)
        wait = (moves.row - turn[active[moves.column]]) % len(x)
        last_turn_first = np.argsort(-wait, kind="stable")
        first = np.full(len(active), -1)
        first[moves.column[last_turn_first]] = last_turn_first  # of several of one column the last one stays
        first = first[first >= 0]
        first = first[turn[active[moves.column[first]]] + wait[first] < ROUNDS * len(x)]
        active = active[moves.column[first]]
        turn[active] += wait[first] + 1
        codes[moves.row[first], active] = moves.code[first]
        sum_lx[active], sum_l2[active] = moves.sum_lx[first], moves.sum_l2[first]
    dead = size < f32(TINY)
    scale = np.where((sum_l2 > 0) & ~dead, sum_lx / sum_l2, f32(0))
    codes += f32(half)
    codes[:, dead] = 0
    return scale, codes.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Moves:
    """Codes that would lessen the error, each alone; arrays of one length, one row of them after the other."""

    row: Array
    column: Array
    code: F32
    sum_lx: F32
    sum_l2: F32


def _moves(half: int, x: F32, weights: F32, weighted: F32, codes: F32, sum_lx: F32, sum_l2: F32) -> _Moves:
    """What the sums of each column, and the new ones, say of the code that fits what the others leave to a value."""
    along = weighted * codes
    np.subtract(sum_lx, along, out=along)
    square = weights * codes
    np.subtract(sum_l2, np.multiply(square, codes, out=square), out=square)
    found = x * square
    np.divide(found, along, out=found)
    if np.abs(found).max() < EXACT:
        np.rint(found, out=found)
    else:  # NaN too
        found = nearest(found).astype(np.float32)
    np.clip(found, np.float32(-half), np.float32(half - 1), out=found)
    at = np.flatnonzero(found != codes)
    at = at[along.ravel()[at] > 0]
    row, column = np.divmod(at, x.shape[1])
    code, now_lx, now_l2 = found.ravel()[at], sum_lx[column], sum_l2[column]
    new_lx = along.ravel()[at] + weighted.ravel()[at] * code
    new_l2 = square.ravel()[at] + weights.ravel()[at] * code * code
    better = (new_l2 > 0) & (new_lx * new_lx * now_l2 > now_lx * now_lx * new_l2)
    return _Moves(row[better], column[better], code[better], new_lx[better], new_l2[better])


def positive_scale(x: F32, weights: F32, levels: int) -> tuple[F32, Array]:
    """The scale and uint8 codes 0..levels of values that are meant to be positive (scales or minimums themselves).

    A negative value leaves a code that wraps to a byte, here as in ggml.
    """
    f32, byte = np.float32, np.uint8
    highest = np.maximum(x.max(axis=0), f32(0))
    best_inverse = f32(levels) / highest
    inverse = best_inverse
    wrapped = nearest(inverse * x).astype(byte).astype(np.float32)
    apart = x - f32(1) / inverse * wrapped
    best = total(weights * apart * apart)
    for trial in (-4, -3, -2, -1, 1, 2, 3, 4):
        inverse = (f32(0.1) * f32(trial) + f32(levels)) / highest
        apart = x - f32(1) / inverse * np.minimum(nearest(inverse * x), levels).astype(np.float32)
        error = total(weights * apart * apart)
        better = error < best
        best, best_inverse = np.where(better, error, best), np.where(better, inverse, best_inverse)
    plain = np.minimum(nearest(best_inverse * x), levels)
    as_float = plain.astype(np.float32)
    weighted = weights * x
    sum_lx, sum_l2 = total(weighted * as_float), total(weights * as_float * as_float)
    codes = plain.astype(byte)
    for _ in range(5):
        for at in range(len(x)):
            w, wx, code = weights[at], weighted[at], codes[at].astype(np.float32)
            along, square = sum_lx - wx * code, sum_l2 - w * code * code
            moved = np.minimum(nearest(x[at] * square / along), levels)
            new = moved.astype(np.float32)
            new_along, new_square = along + wx * new, square + w * new * new
            better = (along > 0) & (square > 0) & (moved != codes[at])
            better &= new_along * new_along * sum_l2 > sum_lx * sum_lx * new_square
            codes[at] = np.where(better, moved.astype(byte), codes[at])
            sum_lx, sum_l2 = np.where(better, new_along, sum_lx), np.where(better, new_square, sum_l2)
    dead = highest < f32(TINY)
    scale = np.where((sum_l2 > 0) & ~dead, sum_lx / sum_l2, f32(0))
    return scale, np.where(dead, 0, codes).astype(byte)
