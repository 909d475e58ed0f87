"""Q5_1: 32 codes of 5 bits share an f16 scale and an f16 minimum. 24 bytes a block, 6 bits a weight.

    offset  size  field
    0       2     d    f16      scale
    2       2     m    f16      minimum
    4       4     qh   u32      bit j = the fifth bit of q[j]
    8       16    qs   u4[32]   value = d * q + m; byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    m = blocks.min(axis=1, keepdims=True)  # (block, 1)
    d = (blocks.max(axis=1, keepdims=True) - m) / np.float32(31)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        codes = np.trunc((blocks - m) * inverse + np.float32(0.5)).astype(np.uint8)  # ggml does not clamp here
    high = np.packbits((codes >> 4) & 1, axis=1, bitorder="little")  # (block, 4)
    low = (codes[:, :16] & 15) | (codes[:, 16:] << 4)
    head = np.concatenate([d, m], axis=1).astype("<f2").view(np.uint8)
    return np.concatenate([head, high, low], axis=1)


def decode(blocks: Array) -> F32:
    head = np.ascontiguousarray(blocks[:, :4]).view("<f2").astype(np.float32)  # (block, 2)
    high = np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little")  # (block, 32)
    nibbles = blocks[:, 8:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | (high << 4)
    return head[:, :1] * codes + head[:, 1:]


encoding = Block("q5_1", values=32, bytes=24, encode=encode, decode=decode, ggml=7)
