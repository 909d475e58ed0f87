"""Q5_1: 32 codes of 5 bits share an f16 scale and an f16 minimum. 24 bytes a block, 6 bits a weight.

offset  size  field
0       2     d    f16      scale
2       2     m    f16      minimum
4       4     qh   u32      bit j = the fifth bit of q[j]
8       16    qs   u4[32]   value = d * q + m; byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import columns, f16, fifth_bits, inverse, low_halves, weighted_range
from modelkit.encodings._code_blocks import CodeBlock, five_bits, joined_five_bits
from modelkit.encodings._slabs import f16_field
from modelkit.kernels.searches import lowest
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 24]."""
    x = columns(blocks)
    m = lowest(x)
    d: F32 = (x.max(axis=0) - m + np.float32(0)) / np.float32(31)  # + 0: never -0
    x -= m
    x *= inverse(d)
    x += np.float32(0.5)
    codes = x.astype(np.uint8)  # ggml does not clamp here
    return np.concatenate([f16(d, m), fifth_bits(codes), low_halves(codes)], axis=1)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 24]: columns of more importance err less."""
    fit, codes = weighted_range(rows, importance, 31)
    return np.concatenate([f16(fit.scale, -fit.minimum), fifth_bits(codes), low_halves(codes)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 24] -> float32 [block, 32]."""
    head = f16_field(blocks, 0, 2)  # (block, 2)
    high = np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little")  # (block, 32)
    nibbles = blocks[:, 8:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | (high << 4)
    values: F32 = head[:, :1] * codes
    values += head[:, 1:]
    return values


encoding = CodeBlock(
    "q5_1",
    values=32,
    bytes=24,
    encode=encode,
    weighted=encode_weighted,
    decode=decode,
    ggml=7,
    fields=(0, 2),
    grid=Grid(5, 32, "F16", "float"),
    split=five_bits,
    join=joined_five_bits,
)
