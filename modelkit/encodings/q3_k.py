"""Q3_K: 16 sub-blocks of 16 codes of 3 bits, each with a 6-bit scale. 3.4375 bits a weight.

offset  size  field
0       32    hmask   bit b of byte l = the third bit of value 32 b + l
32      64    qs      u2[256]  two halves of 128: byte l of 32 holds values l, l + 32, l + 64, l + 96
96      12    scales  low 4 bits in bytes 0-7 (low halves first), high 2 bits in bytes 8-11
108     2     d       f16      value = d * (scale - 32) * (q - 4)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


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


encoding = Block("q3_k", values=256, bytes=110, encode=None, decode=decode, ggml=11)
