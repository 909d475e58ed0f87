"""F16: IEEE 754 binary16, little endian. Round to nearest even; what would become infinite is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


LIMIT = 65519.996  # from 65520 on, f32 rounds to infinity


def encode(values: F32) -> Array:
    return values.astype("<f2")


def decode(data: Array) -> F32:
    return data.view("<f2").astype(np.float32)


encoding = Float("f16", "F16", exponent=5, mantissa=10, encode=encode, decode=decode, ggml=1, limit=LIMIT)
