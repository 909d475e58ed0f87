"""Q2_K: 16 sub-blocks of 16 codes of 2 bits, each with a 4-bit scale and a 4-bit minimum. 2.625 bits a weight.

offset  size  field
0       16    scales  u8[16]   low half = scale, high half = minimum of a sub-block
16      64    qs      u2[256]  two halves of 128: byte l of 32 holds values l, l + 32, l + 64, l + 96
80      2     d       f16      value = d * scale * q - dmin * minimum
82      2     dmin    f16
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._k_blocks import columns, quarters, requantised, rows_of, weighted_units, weights
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_bytes, f16_field
from modelkit.kernels.searches import Fit, nearest, scale_and_minimum
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 256] -> uint8 [block, 84]."""
    x = columns(blocks, 16)
    fit = scale_and_minimum(x, np.abs(x), 3, start=-0.5, step=0.1, steps=15, absolute=True)
    scale, scales = _four_bits(fit.scale.reshape(-1, 16))
    minimum, minimums = _four_bits(fit.minimum.reshape(-1, 16))
    return _blocks(x, fit, scale, scales | (minimums << 4), minimum)  # a negative scale's bits run into the minimum


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 84]: columns of more importance err less."""
    blocks = rows.reshape(-1, 256)
    x, weighted = columns(blocks, 16), weights(blocks, importance, 16, factor=1)
    fit = scale_and_minimum(x, weighted, 3, start=-0.9, step=0.05, steps=36)
    scale, scales, minimum, minimums = weighted_units(fit, weighted, 15)
    return _blocks(x, fit, scale, scales | (minimums << 4), minimum)


def _four_bits(values: F32) -> tuple[F32, Array]:
    """(the f32 unit, codes 0..15) of the scales or the minimums of each block, [block, 16]."""
    highest = np.maximum(values.max(axis=1), np.float32(0))
    inverse = np.where(highest > 0, np.float32(15) / highest, np.float32(0))
    return highest / np.float32(15), nearest(inverse[:, None] * values).astype(np.uint8)


def _blocks(x: F32, fit: Fit, scale: F32, scales: Array, minimum: F32) -> Array:
    """The bytes; codes are found anew from the scales as they are stored."""
    d, dmin = f16_bytes(scale), f16_bytes(minimum)
    rounded, lowered = f16_field(d, 0) * (scales & 15), f16_field(dmin, 0) * (scales >> 4)  # (block, sub-block)
    codes = rows_of(requantised(x, rounded.reshape(-1), lowered.reshape(-1), fit))
    return np.concatenate([scales, quarters(codes), d, dmin], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 84] -> float32 [block, 256]."""
    scales = blocks[:, :16]
    d, dmin = f16_field(blocks, 80), f16_field(blocks, 82)  # (block, 1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes = (blocks[:, 16:80].reshape(-1, 2, 1, 32) >> shifts) & 3  # (block, half, shift, 32)
    codes = codes.reshape(-1, 16, 16)  # (block, sub-block, value)
    scale, minimum = d * (scales & 15), dmin * (scales >> 4)  # (block, sub-block)
    values: F32 = scale[:, :, None] * codes
    values -= minimum[:, :, None]
    return values.reshape(-1, 256)


encoding = Block(
    "q2_k", values=256, bytes=84, encode=encode, weighted=encode_weighted, decode=decode, fields=(80, 82), ggml=10
)
