"""Q3_K: 16 sub-blocks of 16 codes of 3 bits, each with a 6-bit scale. 3.4375 bits a weight.

offset  size  field
0       32    hmask   bit b of byte l = the third bit of value 32 b + l
32      64    qs      u2[256]  two halves of 128: byte l of 32 holds values l, l + 32, l + 64, l + 96
96      12    scales  low 4 bits in bytes 0-7 (low halves first), high 2 bits in bytes 8-11
108     2     d       f16      value = d * (scale - 32) * (q - 4)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._k_blocks import columns, quarters, rows_of, signed_requantised, weights
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_bytes, f16_field
from modelkit.kernels.searches import largest_magnitude, nearest, refined_scale, signed_scale, total
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 256] -> uint8 [block, 110]."""
    x = columns(blocks, 16)
    scale, searched = refined_scale(x, 4)
    of_block = scale.reshape(-1, 16)
    _, largest = largest_magnitude(np.ascontiguousarray(of_block.T))
    inverse = np.float32(-32) / largest
    codes = nearest(inverse[:, None] * of_block).clip(-32, 31) + 32  # (block, sub-block)
    empty = largest == 0
    codes[empty] = 0
    return _blocks(x, np.where(empty, np.float32(0), np.float32(1) / inverse), codes.astype(np.uint8), searched)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 110]: columns of more importance err less."""
    blocks = rows.reshape(-1, 256)
    x, weighted = columns(blocks, 16), weights(blocks, importance, 16, factor=2)
    fit = signed_scale(x, weighted, 4)
    of_block = np.ascontiguousarray(fit.scale.reshape(-1, 16).T)  # (sub-block, block)
    unit = signed_scale(of_block, np.ascontiguousarray(total(weighted).reshape(-1, 16).T), 32)
    return _blocks(x, unit.scale, unit.codes(of_block).T, fit.codes(x))


def _blocks(x: F32, scale: F32, scales: Array, searched: Array) -> Array:
    """The bytes; codes are found anew from the scales as they are stored."""
    d = f16_bytes(scale)
    rounded = f16_field(d, 0) * (scales.astype(np.int8) - np.int8(32))  # (block, sub-block)
    codes = rows_of(signed_requantised(x, rounded.reshape(-1), 4, searched))
    third = np.bitwise_or.reduce((codes >> 2).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    low = (scales[:, :8] & 15) | (scales[:, 8:] << 4)
    top = scales.reshape(-1, 4, 4) >> 4
    high = top[:, 0] | (top[:, 1] << 2) | (top[:, 2] << 4) | (top[:, 3] << 6)
    return np.concatenate([third, quarters(codes & 3), low, high, d], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 110] -> float32 [block, 256]."""
    d = f16_field(blocks, 108)  # (block, 1)
    low, top = blocks[:, 96:104], blocks[:, 104:108]
    low = np.concatenate([low & 15, low >> 4], axis=1)  # (block, 16)
    top = np.concatenate([(top >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)  # (block, 16)
    scales = (low | (top << 4)).view(np.int8) - np.int8(32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes = ((blocks[:, 32:96].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 8, 32)  # (block, b, l)
    bits = (blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # (block, b, l)
    codes = (codes | (bits << 2)).view(np.int8) - np.int8(4)
    values: F32 = (d * scales)[:, :, None] * codes.reshape(-1, 16, 16)  # (block, sub-block, value)
    return values.reshape(-1, 256)


encoding = Block(
    "q3_k", values=256, bytes=110, encode=encode, weighted=encode_weighted, decode=decode, fields=(108,), ggml=11
)
