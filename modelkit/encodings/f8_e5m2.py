"""F8 E5M2: 5 bits of exponent, 2 of mantissa, largest value 57344. The upper byte of an f16.

From 61440 on a value would become infinite and is refused.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


LIMIT = 61439.996  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    return values.astype(ml_dtypes.float8_e5m2).view(np.uint8)


def decode(data: Array) -> F32:
    return _table()[data.view(np.uint8)]


@cache
def _table() -> F32:
    """The value of each of the 256 codes."""
    return np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2).astype(np.float32)


encoding = Float("f8_e5m2", "F8_E5M2", exponent=5, mantissa=2, encode=encode, decode=decode, limit=LIMIT)
