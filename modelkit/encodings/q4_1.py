"""Q4_1: 32 codes of 4 bits share an f16 scale and an f16 minimum. 20 bytes a block, 5 bits a weight.

    offset  size  field
    0       2     d    f16      scale
    2       2     m    f16      minimum
    4       16    qs   u4[32]   value = d * q + m; byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    m = blocks.min(axis=1, keepdims=True)  # (block, 1)
    d = (blocks.max(axis=1, keepdims=True) - m) / np.float32(15)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        codes = np.minimum(np.trunc((blocks - m) * inverse + np.float32(0.5)), 15).astype(np.int8).view(np.uint8)
    head = np.concatenate([d, m], axis=1).astype("<f2").view(np.uint8)
    return np.concatenate([head, codes[:, :16] | (codes[:, 16:] << 4)], axis=1)


def decode(blocks: Array) -> F32:
    head = np.ascontiguousarray(blocks[:, :4]).view("<f2").astype(np.float32)  # (block, 2)
    nibbles = blocks[:, 4:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)  # (block, 32)
    return head[:, :1] * codes + head[:, 1:]


encoding = Block("q4_1", values=32, bytes=20, encode=encode, decode=decode, ggml=3)
