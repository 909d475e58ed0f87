"""What the five classic blocks of 32 values share when they are written.

They are worked on transposed, (value, block): numpy is several times faster along the long axis.
All arithmetic is float32 in ggml's order; the inverse scale comes from d before it is rounded to f16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels.searches import Fit, SignedFit, largest_magnitude, scale_and_minimum, signed_scale, total
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def columns(blocks: F32) -> F32:
    """A copy that may be worked on in place: (block, value) -> (value, block)."""
    turned: F32 = blocks.T.copy()
    return turned


def signed_largest(values: F32) -> F32:
    """Of each block the value of largest magnitude with its sign: the first of equals, +0 if all are zero."""
    _, largest = largest_magnitude(values)
    largest += np.float32(0)  # -0 + 0 is 0
    return largest


def inverse(d: F32) -> F32:
    """1 / d, and 0 where d is 0 or so small that 1 / d overflows (its f16 is 0 then)."""
    inverted: F32 = np.float32(1) / d
    inverted[~np.isfinite(inverted)] = 0
    return inverted


def f16(*fields: F32) -> Array:
    """The f16 bytes of one or more fields of each block: uint8 [block, 2 * fields]."""
    return np.stack(fields, axis=1).astype("<f2").view(np.uint8)


def low_halves(codes: Array) -> Array:
    """Codes j and j + 16 share byte j by their low four bits: uint8 [32, block] -> uint8 [block, 16]."""
    pairs: Array = (codes[:16] & 15) | (codes[16:] << 4)
    return pairs.T


def fifth_bits(codes: Array) -> Array:
    """Bit j of a little-endian u32 is the fifth bit of code j: uint8 [32, block] -> uint8 [block, 4]."""
    weights = np.uint8(1) << np.arange(8, dtype=np.uint8)[:, None]
    bits: Array = np.bitwise_or.reduce((codes >> 4).reshape(4, 8, -1) * weights, axis=1)  # (byte, block)
    return bits.T


def weighted(rows: F32, importance: F32) -> tuple[F32, F32]:
    """Values and their weights, importance * sqrt(mean square of the row + x^2), both as (value, block)."""
    spread = total(np.square(rows.T)) / np.float32(rows.shape[1])  # (row,)
    weights = np.sqrt(spread[:, None] + np.square(rows))
    weights *= importance
    return columns(rows.reshape(-1, 32)), columns(weights.reshape(-1, 32))


def weighted_scale(rows: F32, importance: F32, half: int) -> tuple[SignedFit, Array]:
    """The fit of each block and its codes, uint8 [32, block]."""
    x, weights = weighted(rows, importance)
    fit = signed_scale(x, weights, half)
    return fit, fit.codes(x)


def weighted_range(rows: F32, importance: F32, levels: int) -> tuple[Fit, Array]:
    """The fit of each block and its codes, uint8 [32, block]."""
    x, weights = weighted(rows, importance)
    fit = scale_and_minimum(x, weights, levels, start=-0.9, step=0.05, steps=36)
    return fit, fit.codes(x)
