"""F8 E5M2: 5 bits of exponent, 2 of mantissa, largest value 57344. The upper byte of an f16.

From 61440 on a value would become infinite and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings import _f8
from modelkit.encodings._kinds import Float

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

LIMIT = 61439.996  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    """float32 -> uint8, rounded to nearest even."""
    return _f8.narrow(values, "float8_e5m2")


def decode(data: Array) -> F32:
    """uint8 -> float32, exactly."""
    return _f8.widen(data, "float8_e5m2")


encoding = Float("f8_e5m2", "F8_E5M2", exponent=5, mantissa=2, encode=encode, decode=decode, limit=LIMIT)
