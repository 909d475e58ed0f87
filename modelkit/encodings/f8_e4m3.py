"""F8 E4M3, the `fn` variant: 4 bits of exponent, 3 of mantissa, no infinity, largest value 448.

Beyond 464 a value would become NaN and is refused; infinities are refused.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


LIMIT = 464.0  # the largest f32 that rounds to a finite value


def encode(values: F32) -> Array:
    return values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def decode(data: Array) -> F32:
    return _table()[data.view(np.uint8)]


@cache
def _table() -> F32:
    """The value of each of the 256 codes."""
    return np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


encoding = Float("f8_e4m3", "F8_E4M3", exponent=4, mantissa=3, encode=encode, decode=decode, limit=LIMIT, infinity=False)
