"""F8 E4M3, the `fn` variant: 4 bits of exponent, 3 of mantissa, no infinity, largest value 448.

Beyond 464 a value would become NaN and is refused; infinities are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings import _f8
from modelkit.encodings._kinds import Float

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

LIMIT = 464.0  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    """float32 -> uint8, rounded to nearest even."""
    return _f8.narrow(values, "float8_e4m3fn")


def decode(data: Array) -> F32:
    """uint8 -> float32, exactly."""
    return _f8.widen(data, "float8_e4m3fn")


encoding = Float(
    "f8_e4m3", "F8_E4M3", exponent=4, mantissa=3, encode=encode, decode=decode, limit=LIMIT, infinity=False
)
