"""Q8_0: 32 signed bytes share one f16 scale. 34 bytes a block, 8.5 bits a weight.

offset  size  field
0       2     d    f16      scale
2       32    qs   i8[32]   value = d * qs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._classic_blocks import columns, f16, inverse
from modelkit.encodings._code_blocks import CodeBlock, turned_sign
from modelkit.encodings._slabs import f16_field
from modelkit.lazy import np
from modelkit.tensors import Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


SIGN, HALF = 0x8000_0000, 0x3EFF_FFFF  # the sign bit of an f32; the bits of 0.49999997


def encode(blocks: F32) -> Array:
    """float32 [block, 32] -> uint8 [block, 34]."""
    x = columns(blocks)
    d: F32 = np.abs(x).max(axis=0) / np.float32(127)
    x *= inverse(d)  # ggml multiplies by 1/d; dividing by d gives other bytes
    half = x.view(np.uint32) & np.uint32(SIGN)
    half |= np.uint32(HALF)
    x += half.view(np.float32)  # and the cast cuts: half away from zero
    return np.concatenate([f16(d), x.astype(np.int8).view(np.uint8).T], axis=1)


def decode(blocks: Array) -> F32:
    """uint8 [block, 34] -> float32 [block, 32]."""
    d = f16_field(blocks, 0)  # (block, 1)
    values: F32 = d * blocks[:, 2:].view(np.int8)
    return values


encoding = CodeBlock(
    "q8_0",
    values=32,
    bytes=34,
    encode=encode,
    decode=decode,
    ggml=8,
    fields=(0,),
    grid=Grid(8, 32, "F16"),
    split=turned_sign,
    join=turned_sign,
)
