"""F32: IEEE 754 binary32, little endian. 32 bits a weight; every other encoding decodes into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(values: F32) -> Array:
    """float32 -> f4; no copy is made where the machine is little-endian."""
    return values.astype("<f4", copy=False)


def decode(data: Array) -> F32:
    """uint8 -> float32; a view of `data` where the machine is little-endian."""
    return data.view("<f4").astype(np.float32, copy=False)


encoding = Float("f32", "F32", exponent=8, mantissa=23, encode=encode, decode=decode, ggml=0)
