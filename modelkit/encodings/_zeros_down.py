"""Zeros that are packed down the rows: a word holds those of neighbouring rows, so that rows share words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings import _bits, _padded_bits
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def read(stored: Array, bits: int, count: int, rows: slice, *, padded: bool = False) -> Array:
    """uint8 [word, group, byte] of `count` rows -> the zeros of `rows`, int16 [row, group]."""
    found, first = _around(stored, bits, count, rows, padded=padded)
    zeros: Array = found[:, rows.start - first : rows.stop - first].T.astype(np.int16)
    return zeros


def write(stored: Array, bits: int, count: int, rows: slice, zeros: Array) -> None:
    """Put the zeros of `rows`, [row, group], into their words; their neighbours are packed again."""
    found, first = _around(stored, bits, count, rows, padded=False)
    around = found.copy()  # (group, row)
    around[:, rows.start - first : rows.stop - first] = zeros.astype(np.uint8).T
    words = _bits.pack(around, bits).reshape(len(around), -1, 4)  # (group, word, byte)
    start = first // 32 * bits
    stored[start : start + words.shape[1]] = words.swapaxes(0, 1)


def _around(stored: Array, bits: int, count: int, rows: slice, *, padded: bool) -> tuple[Array, int]:
    """All zeros of the words that `rows` touch, uint8 [group, row], and the row of the first of them."""
    per, step = (32 // bits, 1) if padded else (32, bits)  # codes that fill `step` words
    first, last = rows.start // per, -(-rows.stop // per)
    words = stored[first * step : last * step].swapaxes(0, 1).reshape(stored.shape[1], -1)  # (group, byte)
    unpack = _padded_bits.unpack if padded else _bits.unpack
    return unpack(words, bits, min(last * per, count) - first * per), first * per
