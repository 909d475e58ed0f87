"""What the kinds work with: slabs of values, refusals of what is found in them, f16 fields of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelkit.errors import BadValue
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SLAB = 127 << 10
"""Values worked on at once: the temporaries of a slab stay in the processor's cache.

127, not 128: arrays whose rows lie a power of two apart fall on each other in the cache when transposed.
"""


MOST = 2.0**32
"""No scale of a block reaches as far (the farthest, of Q6_K, to 2^28), and no search for scales overflows up to it."""


def slabs(count: int, unit: int = 1) -> Iterator[slice]:
    """Cut `count` units of `unit` values each into runs of about SLAB values, counted in units."""
    size = max(SLAB // unit, 1)
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def refuse_nonfinite(values: F32, name: str, first: int = 0) -> None:
    """Raise BadValue at the first NaN or infinity: a block scale would spread it over its neighbours."""
    finite = np.isfinite(values)
    if not finite.all():
        raise out_of_range(values, ~finite, f"{name} cannot hold it", first)


def refuse_beyond(values: F32, name: str, first: int = 0) -> None:
    """Raise BadValue at the first NaN or infinity, else at the first value beyond MOST."""
    if values.min() >= -MOST and values.max() <= MOST:  # NaN compares false
        return
    refuse_nonfinite(values, name, first)
    raise out_of_range(values, np.abs(values) > MOST, f"too large for the f16 scales of {name}", first)


def out_of_range(values: Array, beyond: Array, why: str, first: int = 0) -> BadValue:
    """The error for the first value marked in `beyond`; `first` is the place of `values` in the whole run."""
    index = int(np.flatnonzero(beyond)[0])
    return BadValue(f"value {float(values.reshape(-1)[index]):g}: {why}", index=first + index)


def f16_field(blocks: Array, start: int, count: int = 1) -> F32:
    """`count` f16 fields of each block from byte `start`, as float32 [block, count]."""
    field: F32 = np.ascontiguousarray(blocks[:, start : start + 2 * count]).view("<f2").astype(np.float32)
    return field


def f16_bytes(field: F32) -> Array:
    """One f16 field of each block, rounded to nearest even: float32 [block] -> uint8 [block, 2]."""
    return field.astype("<f2").view(np.uint8).reshape(-1, 2)
