"""F64: IEEE 754 binary64, little endian. 64 bits a weight; modelkit computes in f32, so reading it rounds.

A finite value beyond the range of f32 is refused when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float
from modelkit.encodings._slabs import out_of_range, slabs
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(values: F32) -> Array:
    """float32 -> f8, exactly."""
    return values.astype("<f8")


def decode(data: Array) -> F32:
    """uint8 -> float32, rounded to nearest even; raises BadValue where that overflows."""
    wide = data.view("<f8")
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    for run in slabs(len(values)):
        infinite = np.isinf(values[run])
        if infinite.any():
            _refuse_overflow(wide[run], infinite, run.start)
    return values


def _refuse_overflow(wide: Array, infinite: Array, first: int) -> None:
    beyond = infinite & np.isfinite(wide)
    if beyond.any():
        raise out_of_range(wide, beyond, "f32, in which modelkit computes, holds at most 3.40282e+38", first)


encoding = Float("f64", "F64", exponent=11, mantissa=52, encode=encode, decode=decode, ggml=28)
