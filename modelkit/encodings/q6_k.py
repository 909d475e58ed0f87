"""Q6_K: 16 sub-blocks of 16 codes of 6 bits, each with an 8-bit scale. 6.5625 bits a weight.

offset  size  field
0       128   ql      two halves of 64 bytes: low halves = values l, l + 32; high halves = l + 64, l + 96
128     64    qh      two halves of 32 bytes: 2 top bits of values l, l + 32, l + 64, l + 96
192     16    scales  i8[16]
208     2     d       f16      value = d * scale * (q - 32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


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


encoding = Block("q6_k", values=256, bytes=210, encode=None, decode=decode, ggml=14)
