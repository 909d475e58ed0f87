"""Q2_K: 16 sub-blocks of 16 codes of 2 bits, each with a 4-bit scale and a 4-bit minimum. 2.625 bits a weight.

offset  size  field
0       16    scales  u8[16]   low half = scale, high half = minimum of a sub-block
16      64    qs      u2[256]  two halves of 128: byte l of 32 holds values l, l + 32, l + 64, l + 96
80      2     d       f16      value = d * scale * q - dmin * minimum
82      2     dmin    f16
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


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


encoding = Block("q2_k", values=256, bytes=84, encode=None, decode=decode, ggml=10)
