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

from modelkit.encodings._k_scales import unpack
from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


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


encoding = Block("q5_k", values=256, bytes=176, encode=None, decode=decode, ggml=13)
