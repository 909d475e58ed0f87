"""Q8_0: 32 signed bytes share one f16 scale. 34 bytes a block, 8.5 bits a weight.

    offset  size  field
    0       2     d    f16      scale
    2       32    qs   i8[32]   value = d * qs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(blocks: F32) -> Array:
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)  # (block, 1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        scaled = blocks * inverse  # ggml multiplies by 1/d; dividing by d gives other bytes
    qs = np.trunc(scaled + np.copysign(np.float32(0.49999997), scaled)).astype(np.int8)  # half away from zero
    return np.concatenate([d.astype("<f2").view(np.uint8), qs.view(np.uint8)], axis=1)


def decode(blocks: Array) -> F32:
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)  # (block, 1)
    return d * blocks[:, 2:].view(np.int8)


encoding = Block("q8_0", values=32, bytes=34, encode=encode, decode=decode, ggml=8)
