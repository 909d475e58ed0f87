"""BF16: the upper half of an f32, rounded to nearest even. The range of f32 with 8 bits of precision.

What would become infinite by rounding is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

LIMIT = 3.396177326406364e38  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    """float32 -> u2, the bits of bf16."""
    return values.astype(ml_dtypes.bfloat16).view(np.uint16).astype("<u2", copy=False)


def decode(data: Array) -> F32:
    """uint8 -> float32, exactly."""
    bits = data.view("<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


encoding = Float("bf16", "BF16", exponent=8, mantissa=7, encode=encode, decode=decode, ggml=30, limit=LIMIT)
