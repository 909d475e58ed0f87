"""Q4_0: 32 codes of 4 bits share one f16 scale. 18 bytes a block, 4.5 bits a weight.

offset  size  field
0       2     d    f16      scale, from the value of largest magnitude (which becomes code 0)
2       16    qs   u4[32]   value = d * (q - 8); byte j = q[j] low, q[j + 16] high
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import columns, f16, inverse, low_halves, signed_largest, weighted_scale
from modelkit.encodings._code_blocks import CodeBlock, halves, joined_halves
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 18]."""
    x = columns(blocks)
    d: F32 = signed_largest(x) / np.float32(-8)
    scale = inverse(d)
    x *= scale
    x += np.float32(8.5)
    codes = np.minimum(x, np.float32(15), out=x).astype(np.uint8)
    codes[:, (scale == 0) & (d != 0)] = 0  # 1/d overflowed: what ggml's generic build leaves there
    return np.concatenate([f16(d), low_halves(codes)], axis=1)


def encode_weighted(rows: F32, importance: F32) -> Array:
    """float32 [row, column] and [column] -> uint8 [block, 18]: columns of more importance err less."""
    fit, codes = weighted_scale(rows, importance, 8)
    return np.concatenate([f16(fit.scale), low_halves(codes)], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 18] -> float32 [block, 32]."""
    d = f16_field(blocks, 0)  # (block, 1)
    nibbles = blocks[:, 2:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).view(np.int8) - np.int8(8)  # (block, 32)
    values: F32 = d * codes
    return values


encoding = CodeBlock(
    "q4_0",
    values=32,
    bytes=18,
    encode=encode,
    weighted=encode_weighted,
    decode=decode,
    ggml=2,
    fields=(0,),
    grid=Grid(4, 32, "F16"),
    split=halves,
    join=joined_halves,
)
