"""Scales as they are stored: floats of two or four bytes, e4m3 in a byte, powers of two in a byte (e8m0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelkit.encodings._slabs import out_of_range
from modelkit.lazy import ml_dtypes, np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SMALLEST_STEP = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23, "F8_E4M3": 2.0**-3}
"""By dtype, what compressed-tensors stores for a scale of 0: the step of floats above 1."""


def kind(dtype: str) -> Any:
    """The numpy dtype of stored scales."""
    names = {"F16": "<f2", "F32": "<f4", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}
    name = names[dtype]
    return np.dtype(name) if name.startswith("<") else np.dtype(getattr(ml_dtypes, name))


def widened(stored: Array, dtype: str) -> F32:
    """uint8 [byte] -> float32 [scale], exactly. `dtype` E8M0: 2**(byte - 127), 255 is NaN."""
    with np.errstate(all="ignore"):
        if dtype == "E8M0":
            powers = np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
            found: F32 = np.where(stored == 255, np.float32(np.nan), powers)
        else:
            found = np.ascontiguousarray(stored).view(kind(dtype)).astype(np.float32)
    return found


def nearest(figures: F32, dtype: str, each: int = 1) -> F32:
    """float32 rounded once to what `dtype` holds, as float32. Raises BadValue where one becomes infinite.

    `each`: how many values share a figure, for the place of the fault.
    """
    with np.errstate(all="ignore"):
        made: F32 = figures.astype(kind(dtype)).astype(np.float32)
    beyond = np.isfinite(figures) & ~np.isfinite(made)
    if beyond.any():
        error = out_of_range(figures, beyond, f"a scale too large for {dtype}")
        error.index *= each
        raise error
    return made


def narrowed(figures: F32, dtype: str) -> Array:
    """float32 [scale] -> uint8 [byte], exactly; raises BadValue for a scale that the dtype does not hold."""
    flat = np.ascontiguousarray(figures, np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        if dtype == "E8M0":
            halves, powers = np.frexp(flat)  # a power of two is 0.5 * 2**power
            held = np.isnan(flat) | ((halves == 0.5) & (powers >= -126) & (powers <= 128))
            stored = np.where(np.isnan(flat), 255, np.clip(powers + 126, 0, 254)).astype(np.uint8)
        else:
            made = flat.astype(kind(dtype))
            back = made.astype(np.float32)
            held = (back == flat) | (np.isnan(back) & np.isnan(flat))
            stored = made.view(np.uint8)
    if not held.all():
        raise out_of_range(flat, ~held, f"a scale that {dtype} does not hold exactly")
    return stored.reshape(-1)
