"""BF16: the upper half of an f32, rounded to nearest even. The range of f32 with 8 bits of precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


LIMIT = 3.3961775292304957e38  # the largest f32 that does not round to infinity


def encode(values: F32) -> Array:
    return values.astype(ml_dtypes.bfloat16).view("<u2")


def decode(data: Array) -> F32:
    return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


encoding = Float("bf16", "BF16", exponent=8, mantissa=7, encode=encode, decode=decode, ggml=30, limit=LIMIT)
