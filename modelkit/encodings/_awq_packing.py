"""How AWQ puts 4-bit codes into words: shuffled across rows (gemm), and in shuffled tiles (gemv_fast)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels import words
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def across(stored: Array, rows: slice) -> Array:
    """Codes of some rows from words across all rows: uint8 [n, bytes of all rows] -> uint8 [row, n]."""
    first = rows.start // 8
    found = words.from_awq(stored.view("<u4"), slice(first, -(-rows.stop // 8)))
    return found[rows.start - 8 * first : rows.stop - 8 * first]


def put_across(codes: Array, stored: Array, rows: slice) -> None:
    """Codes of some rows, uint8 [row, n], among those of the rows that share their words."""
    first, last = rows.start // 8, -(-rows.stop // 8)
    if rows.start % 8 or rows.stop % 8:
        whole = across(stored, slice(8 * first, 8 * last)).copy()
        whole[rows.start - 8 * first : rows.stop - 8 * first] = codes
        codes = whole
    words.to_awq(codes, stored.view("<u4"), slice(first, last))


def tiles(stored: Array, columns: int, rows: slice) -> Array:
    """Codes of some rows from tiles of 4 rows and 64 columns: uint8 [byte] -> uint8 [row, column].

    A tile holds its rows one after the other, four codes in 16 bits. Of 32 columns, the even ones of each eight go
    before the odd ones, and then pairs of the four eights take turns.
    """
    first = rows.start // 4
    run = stored.reshape(-1, 2 * columns)[first : -(-rows.stop // 4)]
    nibbles = words.unpack(run, 4, 4 * columns).reshape(len(run), -1, 4, 64)  # (tile row, tile, row, column)
    shuffled = nibbles.swapaxes(1, 2).reshape(len(run) * 4, -1, 32)  # (row, run, column)
    turns = np.arange(32).reshape(4, 2, 4).transpose(2, 0, 1).reshape(-1)
    straight: Array = shuffled[:, :, turns].reshape(len(shuffled), -1)
    return straight[rows.start - 4 * first : rows.stop - 4 * first]
