"""Codes of 3, 5, 6 or 7 bits as compressed-tensors packed them until May 2026: no code crosses a word.

A word of 32 bits holds 32 // bits codes, the first in its lowest bits; what is left at its top is zero. For 1, 2,
4 and 8 bits nothing is left, and this is the dense packing of `_bits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def words(count: int, bits: int) -> int:
    """Words that hold `count` codes."""
    return -(-count // (32 // bits))


def unpack(packed: Array, bits: int, count: int) -> Array:
    """The first `count` codes of each row: uint8 [row, byte] -> uint8 [row, count]."""
    stored = np.ascontiguousarray(packed).view("<u4")  # (row, word)
    shifts = np.arange(0, 32 // bits * bits, bits, dtype=np.uint32)
    spread: Array = (stored[:, :, None] >> shifts) & np.uint32(2**bits - 1)  # (row, word, code)
    return spread.astype(np.uint8).reshape(len(packed), -1)[:, :count]


def leaves_top_bits(packed: Array, bits: int) -> bool:
    """Whether the bits that this packing leaves at the top of a word are zero everywhere: uint8 [byte]."""
    stored = packed.view("<u4")
    return not bool((stored >> np.uint32(32 // bits * bits)).any())
