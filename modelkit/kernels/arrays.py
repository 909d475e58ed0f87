"""Loops over whole arrays: the scan for what is no number, statistics, and how far two arrays lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SLAB = 1 << 15  # values that numpy works on at once: temporaries stay in the cache


def scan(values: F32) -> tuple[float, int]:
    """(the largest finite magnitude, the place of the first NaN or infinity or -1) of float32 values."""
    flat = np.ascontiguousarray(values).reshape(-1)
    extension = kernels.native()
    return extension.scan(flat) if extension else scan_in_numpy(flat)


def scan_in_numpy(flat: F32) -> tuple[float, int]:
    """`scan` without the extension."""
    largest, first = 0.0, -1
    for start in range(0, len(flat), SLAB):
        sizes = np.abs(flat[start : start + SLAB])
        high = float(sizes.max())
        if not high < np.inf:  # NaN too
            finite = np.isfinite(sizes)
            first = start + int((~finite).argmax()) if first < 0 else first
            high = float(sizes.max(where=finite, initial=0))
        largest = max(largest, high)
    return largest, first


def statistics(values: Array, around: float) -> tuple[float, float, float, float, int, int, int]:
    """(low, high, sum of x - around, sum of its squares) of the finite values; the number of zeros, NaN, infinities.

    Sums are float64, in any order. Without finite values low is infinite and high minus infinity.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    extension = kernels.native() if flat.dtype == np.float32 else None
    return extension.statistics(flat, around) if extension else statistics_in_numpy(flat, around)


def statistics_in_numpy(flat: Array, around: float) -> tuple[float, float, float, float, int, int, int]:
    """`statistics` without the extension, and of numbers that are no float32."""
    low, high, apart, squares, zeros, nans, infinities = np.inf, -np.inf, 0.0, 0.0, 0, 0, 0
    for start in range(0, len(flat), SLAB):
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            wide = flat[start : start + SLAB].astype(np.float64)
        finite = wide[np.isfinite(wide)]
        missing = int(np.count_nonzero(np.isnan(wide)))
        nans, infinities = nans + missing, infinities + len(wide) - len(finite) - missing
        zeros += len(finite) - int(np.count_nonzero(finite))
        low, high = float(finite.min(initial=low)), float(finite.max(initial=high))
        with np.errstate(over="ignore"):  # of f64 the squares may be too large
            finite -= around
            apart, squares = apart + float(finite.sum()), squares + float(np.einsum("i,i->", finite, finite))
    return low, high, apart, squares, zeros, nans, infinities


def difference(before: Array, after: F32) -> tuple[float, float, float]:
    """(largest |after - before|, sum of its squares, sum of squares of `before`), where `before` is finite.

    The difference itself is rounded to float32 (float64 where `before` is that), the sums are float64 in any order.
    """
    one, other = (np.ascontiguousarray(array).reshape(-1) for array in (before, after))
    extension = kernels.native() if one.dtype == np.float32 else None
    return extension.difference(one, other) if extension else difference_in_numpy(one, other)


def difference_in_numpy(one: Array, other: F32) -> tuple[float, float, float]:
    """`difference` without the extension, and of float64."""
    largest, squared, total = 0.0, 0.0, 0.0
    for start in range(0, len(one), SLAB):
        was, now = one[start : start + SLAB], other[start : start + SLAB]
        finite = np.isfinite(was)
        with np.errstate(all="ignore"):
            if not finite.all():
                was, now = np.where(finite, was, np.float32(0)), np.where(finite, now, np.float32(0))
            apart = now - was
            largest = max(largest, float(np.abs(apart).max(initial=0.0)))
            wide, values = apart.astype(np.float64), was.astype(np.float64)
            squared += float(np.einsum("i,i->", wide, wide))  # not `@`: a BLAS would wake its threads for so little
            total += float(np.einsum("i,i->", values, values))
    return largest, squared, total
