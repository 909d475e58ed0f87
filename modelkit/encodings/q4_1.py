"""Q4_1: 32 codes of 4 bits share an f16 scale and an f16 minimum. 20 bytes a block, 5 bits a weight.

offset  size  field
0       2     d    f16      scale
2       2     m    f16      minimum
4       16    qs   u4[32]   value = d * q + m; byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import columns, f16, inverse, low_halves, weighted_range
from modelkit.encodings._code_blocks import CodeBlock, halves, joined_halves
from modelkit.encodings._slabs import f16_field
from modelkit.kernels.searches import lowest
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 20]."""
    x = columns(blocks)
    m = lowest(x)
    d: F32 = (x.max(axis=0) - m + np.float32(0)) / np.float32(15)  # + 0: never -0
    x -= m
    x *= inverse(d)
    x += np.float32(0.5)
    codes = np.minimum(x, np.float32(15), out=x).astype(np.uint8)
    return np.concatenate([f16(d, m), low_halves(codes)], axis=1)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 20]: columns of more importance err less."""
    fit, codes = weighted_range(rows, importance, 15)
    return np.concatenate([f16(fit.scale, -fit.minimum), low_halves(codes)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 20] -> float32 [block, 32]."""
    head = f16_field(blocks, 0, 2)  # (block, 2)
    nibbles = blocks[:, 4:]
    values: F32 = head[:, :1] * np.concatenate([nibbles & 15, nibbles >> 4], axis=1)  # (block, 32)
    values += head[:, 1:]
    return values


encoding = CodeBlock(
    "q4_1",
    values=32,
    bytes=20,
    encode=encode,
    weighted=encode_weighted,
    decode=decode,
    ggml=3,
    fields=(0, 2),
    grid=Grid(4, 32, "F16", "float"),
    split=halves,
    join=joined_halves,
)
