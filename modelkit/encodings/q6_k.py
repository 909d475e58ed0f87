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
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def decode(blocks: Array) -> F32:
    d = np.ascontiguousarray(blocks[:, 208:]).view("<f2").astype(np.float32)  # (block, 1)
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[None, None, :, None] & 15
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3  # (block, half, quarter, l)
    codes = (low.reshape(-1, 2, 4, 32) | (high << 4)).view(np.int8) - np.int8(32)
    scales = d * blocks[:, 192:208].view(np.int8)  # (block, sub-block)
    return (scales[:, :, None] * codes.reshape(-1, 16, 16)).reshape(-1, 256)


encoding = Block("q6_k", values=256, bytes=210, encode=None, decode=decode, ggml=14)
