"""F16: IEEE 754 binary16, little endian. 16 bits a weight, largest value 65504, rounded to nearest even.

From 65520 on a value would become infinite and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

LIMIT = 65519.996  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    """float32 -> f2."""
    return values.astype("<f2")


def decode(data: Array) -> F32:
    """uint8 -> float32, exactly."""
    return data.view("<f2").astype(np.float32)


encoding = Float("f16", "F16", exponent=5, mantissa=10, encode=encode, decode=decode, ggml=1, limit=LIMIT)
