"""Q5_K: 8 sub-blocks of 32 codes of 5 bits, each with a 6-bit scale and a 6-bit minimum. 5.5 bits a weight.

offset  size  field
0       2     d       f16      value = d * scale * q - dmin * minimum
2       2     dmin    f16
4       12    scales  8 scales and 8 minimums of 6 bits (see _k_scales.py)
16      32    qh      bit b of byte l = the fifth bit of value l of sub-block b
48      128   qs      u4[256]  32 bytes for two sub-blocks: the even one in the low halves
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._k_blocks import (
    columns,
    halves,
    near_zero_and_far,
    requantised,
    rows_of,
    six_bits,
    weighted_units,
    weights,
)
from modelkit.encodings._k_scales import pack, unpack
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_bytes, f16_field
from modelkit.kernels.searches import Fit, scale_and_minimum
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 256] -> uint8 [block, 176]."""
    x = columns(blocks, 32)
    fit = scale_and_minimum(x, near_zero_and_far(x), 31, start=-0.5, step=0.1, steps=15)
    scale, scales = six_bits(fit.scale.reshape(-1, 8))
    minimum, minimums = six_bits(fit.minimum.reshape(-1, 8))
    return _blocks(x, fit, scale, scales, minimum, minimums)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 176]: columns of more importance err less."""
    blocks = rows.reshape(-1, 256)
    x, weighted = columns(blocks, 32), weights(blocks, importance, 32, factor=2)
    fit = scale_and_minimum(x, weighted, 31, start=-0.9, step=0.05, steps=36)
    return _blocks(x, fit, *weighted_units(fit, weighted, 63))


def _blocks(x: F32, fit: Fit, scale: F32, scales: Array, minimum: F32, minimums: Array) -> Array:
    """The bytes; codes are found anew from the scales as they are stored."""
    d, dmin = f16_bytes(scale), f16_bytes(minimum)
    rounded, lowered = f16_field(d, 0) * scales, f16_field(dmin, 0) * minimums  # (block, sub-block)
    codes = rows_of(requantised(x, rounded.reshape(-1), lowered.reshape(-1), fit))
    high = np.bitwise_or.reduce(
        (codes.reshape(-1, 8, 32) >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1
    )  # (block, l): bit b is of sub-block b
    return np.concatenate([d, dmin, pack(scales, minimums), high, halves(codes)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 176] -> float32 [block, 256]."""
    d, dmin = f16_field(blocks, 0), f16_field(blocks, 2)  # (block, 1)
    scales, minimums = unpack(blocks[:, 4:16])
    pairs = blocks[:, 48:].reshape(-1, 4, 32)
    codes = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)  # (block, sub-block, value)
    high = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    codes |= high << 4
    values: F32 = (d * scales)[:, :, None] * codes
    values -= (dmin * minimums)[:, :, None]
    return values.reshape(-1, 256)


encoding = Block(
    "q5_k", values=256, bytes=176, encode=encode, weighted=encode_weighted, decode=decode, fields=(0, 2), ggml=13
)
