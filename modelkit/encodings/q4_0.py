"""Q4_0: 32 codes of 4 bits share one f16 scale. 18 bytes a block, 4.5 bits a weight.

    offset  size  field
    0       2     d    f16      scale, from the value of largest magnitude (which becomes code 0)
    2       16    qs   u4[32]   value = d * (q - 8); byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    rows = np.arange(len(blocks))
    largest = blocks[rows, np.abs(blocks).argmax(axis=1)][:, None]  # signed, the first of equals
    d = largest / np.float32(-8)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        codes = np.minimum(np.trunc(blocks * inverse + np.float32(8.5)), 15).astype(np.int8).view(np.uint8)
    return np.concatenate([d.astype("<f2").view(np.uint8), codes[:, :16] | (codes[:, 16:] << 4)], axis=1)


def decode(blocks: Array) -> F32:
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)  # (block, 1)
    nibbles = blocks[:, 2:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).view(np.int8) - np.int8(8)  # (block, 32)
    return d * codes


encoding = Block("q4_0", values=32, bytes=18, encode=encode, decode=decode, ggml=2)
