"""Q5_0: 32 codes of 5 bits share one f16 scale. 22 bytes a block, 5.5 bits a weight.

offset  size  field
0       2     d    f16      scale, from the value of largest magnitude (which becomes code 0)
2       4     qh   u32      bit j = the fifth bit of q[j]
6       16    qs   u4[32]   value = d * (q - 16); byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import (
    columns,
    f16,
    fifth_bits,
    inverse,
    low_halves,
    signed_largest,
    weighted_scale,
)
from modelkit.encodings._code_blocks import CodeBlock, five_bits, joined_five_bits
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 22]."""
    x = columns(blocks)
    d: F32 = signed_largest(x) / np.float32(-16)
    scale = inverse(d)
    x *= scale
    x += np.float32(16.5)
    codes = np.minimum(x, np.float32(31), out=x).astype(np.uint8)
    codes[:, (scale == 0) & (d != 0)] = 0  # 1/d overflowed: what ggml's generic build leaves there
    return np.concatenate([f16(d), fifth_bits(codes), low_halves(codes)], axis=1)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 22]: columns of more importance err less."""
    fit, codes = weighted_scale(rows, importance, 16)
    return np.concatenate([f16(fit.scale), fifth_bits(codes), low_halves(codes)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 22] -> float32 [block, 32]."""
    d = f16_field(blocks, 0)  # (block, 1)
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")  # (block, 32)
    nibbles = blocks[:, 6:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | (high << 4)
    values: F32 = d * (codes.view(np.int8) - np.int8(16))
    return values


encoding = CodeBlock(
    "q5_0",
    values=32,
    bytes=22,
    encode=encode,
    weighted=encode_weighted,
    decode=decode,
    ggml=6,
    fields=(0,),
    grid=Grid(5, 32, "F16"),
    split=five_bits,
    join=joined_five_bits,
)
