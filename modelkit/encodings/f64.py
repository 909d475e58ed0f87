"""F64: IEEE 754 binary64, little endian. modelkit computes in f32, so reading it rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Float, out_of_range
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def encode(values: F32) -> Array:
    return values.astype("<f8")


def decode(data: Array) -> F32:
    wide = data.view("<f8")
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    beyond = np.isinf(values) & np.isfinite(wide)
    if beyond.any():
        raise out_of_range(wide, beyond, "f32, in which modelkit computes, holds at most 3.4e38")
    return values


encoding = Float("f64", "F64", exponent=11, mantissa=52, encode=encode, decode=decode, ggml=28)
