"""Q5_0: 32 codes of 5 bits share one f16 scale. 22 bytes a block, 5.5 bits a weight.

    offset  size  field
    0       2     d    f16      scale, from the value of largest magnitude
    2       4     qh   u32      bit j = the fifth bit of q[j]
    6       16    qs   u4[32]   value = d * (q - 16); byte j = q[j] low, q[j + 16] high
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
    d = largest / np.float32(-16)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        codes = np.minimum(np.trunc(blocks * inverse + np.float32(16.5)), 31).astype(np.int8).view(np.uint8)
    high = np.packbits(codes >> 4, axis=1, bitorder="little")  # (block, 4)
    low = (codes[:, :16] & 15) | (codes[:, 16:] << 4)
    return np.concatenate([d.astype("<f2").view(np.uint8), high, low], axis=1)


def decode(blocks: Array) -> F32:
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)  # (block, 1)
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")  # (block, 32)
    nibbles = blocks[:, 6:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | (high << 4)
    return d * (codes.view(np.int8) - np.int8(16))


encoding = Block("q5_0", values=32, bytes=22, encode=encode, decode=decode, ggml=6)
