"""What the K-types share when they are written: sub-blocks as columns, their weights, codes of rounded scales.

The importance of a column of the matrix, where it is given, is the same for every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels.searches import Fit, nearest, positive_scale, total
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SUPER = 256  # values of a super-block, of every K-type


def columns(blocks: F32, size: int) -> F32:
    """(block, 256) -> (value, sub-block), contiguous."""
    turned: F32 = np.ascontiguousarray(blocks.reshape(-1, size).T)
    return turned


def rows_of(codes: Array) -> Array:
    """(value, sub-block) -> (block, 256)."""
    return np.ascontiguousarray(codes.T).reshape(-1, SUPER)


def weights(blocks: F32, importance: F32, size: int, factor: int) -> F32:
    """importance * sqrt(factor * mean square of the super-block + x^2), as (value, sub-block).

    `importance` is [column] of the matrix whose rows the blocks fill one after the other.
    """
    spread = total(np.square(blocks.T)) * np.float32(factor) / np.float32(SUPER)  # (block,)
    weighted = np.sqrt(spread[:, None] + np.square(blocks))
    weighted *= repeated(importance, blocks)
    return columns(weighted, size)


def repeated(importance: F32, blocks: F32) -> F32:
    """The importance of every value: [column] -> [block, 256]."""
    rows = blocks.size // len(importance)
    return np.broadcast_to(importance, (rows, len(importance))).reshape(-1, SUPER)


def near_zero_and_far(x: F32) -> F32:
    """The weights of Q4_K and Q5_K without importance: root mean square of the sub-block, plus |x|."""
    weighted: F32 = np.abs(x)
    weighted += np.sqrt(total(np.square(x)) / np.float32(len(x)))
    return weighted


def six_bits(values: F32) -> tuple[F32, Array]:
    """(the f32 unit, codes 0..63) of the scales or the minimums of each block, [block, 8]."""
    highest = np.maximum(values.max(axis=1), np.float32(0))
    inverse = np.where(highest > 0, np.float32(63) / highest, np.float32(0))
    codes = nearest(inverse[:, None] * values).astype(np.uint8)  # as a byte first: a negative one becomes large
    return highest / np.float32(63), np.minimum(codes, np.uint8(63))


def weighted_units(fit: Fit, weights: F32, levels: int) -> tuple[F32, Array, F32, Array]:
    """Unit and codes of the scales, then of the minimums, chosen by the weight of each sub-block."""
    per_block = SUPER // len(weights)
    importance = total(weights).reshape(-1, per_block).T  # (sub-block, block)
    scale, scales = positive_scale(np.ascontiguousarray(fit.scale.reshape(-1, per_block).T), importance, levels)
    minimum, minimums = positive_scale(np.ascontiguousarray(fit.minimum.reshape(-1, per_block).T), importance, levels)
    return scale, scales.T, minimum, minimums.T


def requantised(x: F32, scale: F32, minimum: F32, fit: Fit) -> Array:
    """The codes that rounded scales and minimums ask for; where a scale became 0, the codes of the search."""
    codes = nearest((x + minimum) / scale).clip(0, fit.levels).astype(np.uint8)
    lost = np.flatnonzero(scale == 0)
    if len(lost):
        some = Fit(fit.scale[lost], fit.minimum[lost], fit.inverse[lost], fit.origin[lost], fit.levels)
        codes[:, lost] = some.codes(np.ascontiguousarray(x[:, lost]))
    return codes


def signed_requantised(x: F32, scale: F32, half: int, searched: Array) -> Array:
    """The codes 0..2 half - 1 that rounded scales ask for; where one became 0, the codes of the search."""
    codes = nearest(x / scale).clip(-half, half - 1) + half
    return np.where(scale == 0, searched, codes).astype(np.uint8)


def quarters(codes: Array) -> Array:
    """2-bit codes [block, 256] -> [block, 64]: byte l of each half holds values l, l + 32, l + 64, l + 96."""
    four = codes.reshape(-1, 2, 4, 32)
    packed: Array = four[:, :, 0] | (four[:, :, 1] << 2) | (four[:, :, 2] << 4) | (four[:, :, 3] << 6)
    return packed.reshape(-1, 64)


def halves(codes: Array) -> Array:
    """4-bit codes [block, 256] -> [block, 128]: 32 bytes for two sub-blocks, the even one in the low halves."""
    two = codes.reshape(-1, 4, 2, 32)
    packed: Array = (two[:, :, 0] & 15) | (two[:, :, 1] << 4)
    return packed.reshape(-1, 128)
