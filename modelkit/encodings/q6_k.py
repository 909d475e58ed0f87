"""Q6_K: 16 sub-blocks of 16 codes of 6 bits, each with an 8-bit scale. 6.5625 bits a weight.

offset  size  field
0       128   ql      two halves of 64 bytes: low halves = values l, l + 32; high halves = l + 64, l + 96
128     64    qh      two halves of 32 bytes: 2 top bits of values l, l + 32, l + 64, l + 96
192     16    scales  i8[16]
208     2     d       f16      value = d * scale * (q - 32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._k_blocks import columns, repeated, rows_of, signed_requantised
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_bytes, f16_field
from modelkit.kernels.searches import TINY, largest_magnitude, nearest, signed_scale
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 256] -> uint8 [block, 210]."""
    x = columns(blocks, 16)
    return _blocks(x, np.square(x))


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 210]: columns of more importance err less."""
    blocks = rows.reshape(-1, 256)
    return _blocks(columns(blocks, 16), columns(repeated(importance, blocks), 16))


def _blocks(x: F32, weights: F32) -> Array:
    """The bytes; codes are found anew from the scales as they are stored."""
    fit = signed_scale(x, weights, 32)
    of_block = fit.scale.reshape(-1, 16)
    size, largest = largest_magnitude(np.ascontiguousarray(of_block.T))
    inverse = np.float32(-128) / largest
    d = f16_bytes(np.float32(1) / inverse)
    scales = np.minimum(nearest(inverse[:, None] * of_block), 127).astype(np.int8)
    rounded = f16_field(d, 0) * scales  # (block, sub-block)
    codes = rows_of(signed_requantised(x, rounded.reshape(-1), 32, fit.codes(x))).reshape(-1, 2, 4, 32)
    low, high = codes & 15, codes >> 4  # (block, half, quarter, l)
    ql = np.stack([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2)
    qh = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    packed = np.concatenate([ql.reshape(-1, 128), qh.reshape(-1, 64), scales.view(np.uint8), d], axis=1)
    packed[size < np.float32(TINY)] = 0
    return packed


def decode(blocks: Array) -> F32:
    """uint8 [block, 210] -> float32 [block, 256]."""
    d = f16_field(blocks, 208)  # (block, 1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    low = (blocks[:, :128].reshape(-1, 2, 1, 64) >> shifts[::2]) & 15  # (block, half, nibble, l)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3  # (block, half, quarter, l)
    codes = (low.reshape(-1, 2, 4, 32) | (high << 4)).view(np.int8) - np.int8(32)
    scales = d * blocks[:, 192:208].view(np.int8)  # (block, sub-block)
    values: F32 = scales[:, :, None] * codes.reshape(-1, 16, 16)
    return values.reshape(-1, 256)


encoding = Block(
    "q6_k", values=256, bytes=210, encode=encode, weighted=encode_weighted, decode=decode, fields=(208,), ggml=14
)
