"""Codes of 1 to 8 bits in words: the packings that int8/int4 layouts are made of.

Dense: code 0 in the lowest bits of a row, codes follow each other without gaps and may cross words, as bytes in
little-endian order. The last word of a row is filled with zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels import groups
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def words(count: int, bits: int, word: int = 32) -> int:
    """Words of `word` bits that hold `count` dense codes."""
    return -(-count * bits // word)


def unpack(packed: Array, bits: int, count: int) -> Array:
    """The first `count` dense codes of each row: uint8 [row, byte] -> uint8 [row, count]."""
    rows = len(packed)
    if bits == 8:
        return packed[:, :count]
    if bits == 4:
        return groups.unpack4(np.ascontiguousarray(packed).reshape(-1)).reshape(rows, -1)[:, :count]
    if bits in (1, 2):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        spread: Array = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)  # (row, byte, code)
        return spread.reshape(rows, -1)[:, :count]
    return _runs_of_eight(packed, bits, count)


def _runs_of_eight(packed: Array, bits: int, count: int) -> Array:
    """Eight codes fill exactly `bits` bytes: codes of odd widths are cut from 64-bit numbers."""
    runs = -(-count // 8)
    padded = np.zeros((len(packed), runs, 8), np.uint8)  # (row, run, byte of a u64)
    held = min(packed.shape[1], runs * bits)
    whole = np.zeros((len(packed), runs * bits), np.uint8)
    whole[:, :held] = packed[:, :held]
    padded[:, :, :bits] = whole.reshape(len(packed), runs, bits)
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    spread = (padded.view("<u8") >> shifts) & np.uint64(2**bits - 1)  # (row, run, code)
    return spread.astype(np.uint8).reshape(len(packed), -1)[:, :count]


def pack(codes: Array, bits: int, word: int = 32) -> Array:
    """uint8 [row, code] -> uint8 [row, byte], filled up to whole words of `word` bits."""
    rows, count = codes.shape
    size = words(count, bits, word) * word // 8
    if bits == 8:
        out = np.zeros((rows, size), np.uint8)
        out[:, :count] = codes
        return out
    runs = -(-size * 8 // (8 * bits))
    padded = np.zeros((rows, runs * 8), np.uint8)
    padded[:, :count] = codes
    if bits == 4:
        return groups.pack4(padded.reshape(-1)).reshape(rows, -1)[:, :size]
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    joined = np.bitwise_or.reduce(padded.reshape(rows, runs, 8).astype(np.uint64) << shifts, axis=2)  # (row, run)
    stored: Array = joined.astype("<u8").view(np.uint8).reshape(rows, runs, 8)[:, :, :bits]
    return np.ascontiguousarray(stored.reshape(rows, -1)[:, :size])
