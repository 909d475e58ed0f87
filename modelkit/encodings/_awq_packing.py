"""How AWQ puts 4-bit codes into words: shuffled across rows (gemm), and in shuffled tiles (gemv_fast)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.encodings import _bits
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The row of its eight that nibble k of a word holds."""


def across(words: Array, rows: slice) -> Array:
    """Codes of some rows from words across all rows: uint8 [n, bytes of all rows] -> uint8 [row, n].

    Words are turned round first and taken apart then: that turns half of the bytes that codes would be.
    """
    first = rows.start // 8
    run = words.view("<u4")[:, first : -(-rows.stop // 8)]
    packed = np.ascontiguousarray(run.T).view(np.uint8).reshape(run.shape[1], len(run), 4)  # (word, n, byte)
    found = np.empty((run.shape[1], 8, len(run)), np.uint8)  # (word, row, n)
    for place in range(4):
        np.bitwise_and(packed[:, :, place], 15, out=found[:, ORDER[2 * place]])
        np.right_shift(packed[:, :, place], 4, out=found[:, ORDER[2 * place + 1]])
    straight: Array = found.reshape(-1, len(run))
    return straight[rows.start - 8 * first : rows.stop - 8 * first]


def put_across(codes: Array, words: Array, rows: slice) -> None:
    """Codes of some rows, uint8 [row, n], among those of the rows that share their words."""
    first, last = rows.start // 8, -(-rows.stop // 8)
    if rows.start % 8 or rows.stop % 8:
        whole = across(words, slice(8 * first, 8 * last)).copy()
        whole[rows.start - 8 * first : rows.stop - 8 * first] = codes
        codes = whole
    eights = codes.reshape(last - first, 8, -1)  # (word, row, n)
    packed = np.empty((*eights[:, 0].shape, 4), np.uint8)
    for place in range(4):
        np.bitwise_or(eights[:, ORDER[2 * place]], eights[:, ORDER[2 * place + 1]] << 4, out=packed[:, :, place])
    words.view("<u4")[:, first:last] = packed.view("<u4")[:, :, 0].T


def tiles(stored: Array, columns: int, rows: slice) -> Array:
    """Codes of some rows from tiles of 4 rows and 64 columns: uint8 [byte] -> uint8 [row, column].

    A tile holds its rows one after the other, four codes in 16 bits. Of 32 columns, the even ones of each eight go
    before the odd ones, and then pairs of the four eights take turns.
    """
    first = rows.start // 4
    run = stored.reshape(-1, 2 * columns)[first : -(-rows.stop // 4)]
    nibbles = _bits.unpack(run, 4, 4 * columns).reshape(len(run), -1, 4, 64)  # (tile row, tile, row, column)
    shuffled = nibbles.swapaxes(1, 2).reshape(len(run) * 4, -1, 32)  # (row, run, column)
    turns = np.arange(32).reshape(4, 2, 4).transpose(2, 0, 1).reshape(-1)
    straight: Array = shuffled[:, :, turns].reshape(len(shuffled), -1)
    return straight[rows.start - 4 * first : rows.stop - 4 * first]
