"""Look at the numbers of one part, piece by piece: NaN, infinity, zeros, one value only, saturation.

Three reductions a piece, on integers, at the speed of memory; only a piece that has something to report is
looked at again. Pieces are small enough to stay in the cache between the reductions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.rules._lenses import Lens, View
from modelkit.rules._values import TensorValues

if TYPE_CHECKING:
    from modelkit.tensors import Array

FEW = 4
SLAB = 1 << 18  # bytes between the reductions
SAMPLE = 512  # numbers of a slab, of one slab in FEW, that the standard deviation is estimated from


class Scan:
    """The state of one part between pieces. `feed` takes bytes in their order; numbers may be cut by pieces."""

    def __init__(self, view: View, into: TensorValues, dtype: str) -> None:
        self.view = view
        self.into = into
        self.dtype = dtype
        self.carry = b""
        self.looked = 0  # numbers so far
        self.least: int | None = None
        self.greatest: int | None = None
        self.magnitude = 0
        self.slabs = 0
        self.squares, self.sum, self.sampled = 0.0, 0.0, 0
        into.floats = True
        into.scales = view.scales

    def feed(self, data: Array) -> None:
        """The next bytes (uint8)."""
        unit = self.view.unit
        if self.carry:
            missing = unit - len(self.carry)
            self.carry += data[:missing].tobytes()
            data = data[missing:]
            if len(self.carry) < unit:
                return
            self._look(np.frombuffer(self.carry, np.uint8))
        whole = len(data) // unit * unit
        step = max(SLAB // unit, 1) * unit
        for first in range(0, whole, step):
            self._look(data[first : min(first + step, whole)])
        self.carry = data[whole:].tobytes()

    def _look(self, data: Array) -> None:
        """Whole units."""
        unit = self.view.unit
        first, count = self.looked, len(data) // unit
        if self.view.spread:
            self._numbers(_spread(data), _F16, first)
        for offset, lens in self.view.fields:
            numbers = data
            if unit != lens.width:
                numbers = np.ascontiguousarray(data.reshape(count, unit)[:, offset : offset + lens.width]).reshape(-1)
            self._numbers(numbers, lens, first)
        self.looked += count

    def _numbers(self, data: Array, lens: Lens, first: int) -> None:
        unsigned, signed = data.view(f"<u{lens.width}"), data.view(f"<i{lens.width}")
        low, high, top = int(signed.min()), int(signed.max()), int(unsigned.max())
        self.least = low if self.least is None else min(self.least, low)
        self.greatest = high if self.greatest is None else max(self.greatest, high)
        mask = (1 << (8 * lens.width - 1)) - 1 if lens.sign else (1 << 8 * lens.width) - 1
        magnitude = max(high, top & mask if top > mask else 0) if lens.sign else top
        self.magnitude = max(self.magnitude, magnitude)
        if magnitude >= lens.largest or lens.only is not None:
            self._report(unsigned, lens, mask, first)
        self.slabs += 1
        if self.slabs % FEW == 1 and not self.view.scales and lens.width > 1:
            self._estimate(data, lens)

    def _report(self, numbers: Array, lens: Lens, mask: int, first: int) -> None:
        into = self.into
        sizes = numbers & numbers.dtype.type(mask)
        bad = numbers == lens.only if lens.only is not None else sizes >= lens.nan
        into.nan, into.nan_at = _more(bad, into.nan, into.nan_at, first)
        if lens.infinity is not None:
            into.infinite, into.infinite_at = _more(sizes == lens.infinity, into.infinite, into.infinite_at, first)
        into.saturated += int(np.count_nonzero(sizes == lens.largest))

    def _estimate(self, data: Array, lens: Lens) -> None:
        """The largest of a sample is left out: an outlier must not hide in the deviation that it makes."""
        values = widened(data[: SAMPLE * lens.width], self.dtype)
        largest = float(values[np.abs(values).argmax()])
        self.squares += float(values @ values) - largest * largest
        self.sum += float(values.sum()) - largest
        self.sampled += len(values) - 1

    def finish(self) -> None:
        """Say what holds for all pieces together."""
        signed = all(lens.sign for _, lens in self.view.fields)  # a power of two is never zero
        self.into.zero &= signed and self.magnitude == 0
        self.into.constant &= not self.view.scales and self.least == self.greatest
        self.into.mark += (self.least, self.greatest, self.squares, self.sum)

    @property
    def deviation(self) -> float:
        """Of the numbers that were sampled."""
        if self.sampled < 2:
            return 0.0
        variance = self.squares / self.sampled - (self.sum / self.sampled) ** 2
        return math.sqrt(max(variance, 0.0))


_F16 = Lens(2, 0x7C01, 0x7C00, 0x7BFF)


def widened(data: Array, dtype: str) -> Array:
    """Stored floats as float64; what is not finite counts as 0."""
    if dtype == "BF16":
        values = (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        values = data.view({"F16": "<f2", "F32": "<f4", "C64": "<f4", "F64": "<f8"}[dtype])
    with np.errstate(all="ignore"):
        wide: Array = values.astype(np.float64)
    wide[~np.isfinite(wide)] = 0
    return np.clip(wide, -1e150, 1e150)  # squares must stay finite


def _more(found: Array, count: int, at: int | None, first: int) -> tuple[int, int | None]:
    number = int(np.count_nonzero(found))
    if number and at is None:
        at = first + int(found.argmax())
    return count + number, at


def _spread(data: Array) -> Array:
    """iq1_m: the f16 scale of a block of 56 bytes lies in the top four bits of four words at byte 48."""
    words = np.ascontiguousarray(data.reshape(-1, 56)[:, 48:]).view("<u2").astype(np.uint16)
    d = (words[:, 0] >> 12) | ((words[:, 1] >> 8) & 0x00F0) | ((words[:, 2] >> 4) & 0x0F00) | (words[:, 3] & 0xF000)
    scales: Array = d.astype("<u2").view(np.uint8)
    return scales
