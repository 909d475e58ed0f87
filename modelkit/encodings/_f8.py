"""Floats of one byte, by table: 256 values to decode, 65,536 roundings to encode."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from modelkit.encodings._slabs import slabs
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def narrow(values: F32, dtype: str) -> Array:
    """The codes of `values` in a dtype of ml_dtypes, rounded to nearest even.

    The table is looked up with the upper 16 bits of a value, whose last bit is set when any lower bit
    is: with that much kept, rounding the upper half is rounding the whole ("round to odd").
    """
    bits = values.view(np.uint32)
    upper = (bits >> np.uint32(16)).astype(np.uint16)
    upper |= bits.astype(np.uint16) != 0
    codes: Array = _codes(dtype)[upper]
    return codes


def widen(data: Array, dtype: str) -> F32:
    """The values of codes, float32."""
    codes, table = data.view(np.uint8), _values(dtype)
    values = np.empty(codes.shape, np.float32)
    for run in slabs(len(codes)):
        table.take(codes[run], out=values[run], mode="clip")  # clip: numpy writes straight into `out`
    return values


@cache
def _codes(dtype: str) -> Array:
    """The code of every float32 whose lower 16 bits are zero, by its upper 16."""
    with np.errstate(all="ignore"):
        halves = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
        return halves.astype(getattr(ml_dtypes, dtype)).view(np.uint8)


@cache
def _values(dtype: str) -> F32:
    """The value of each of the 256 codes."""
    with np.errstate(all="ignore"):
        values: F32 = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype)).astype(np.float32)
    return values
