"""Codes of 1 to 8 bits in words: the packings that int8/int4 layouts are made of.

Dense: code 0 in the lowest bits of a row, codes follow each other without gaps and may cross words, as bytes in
little-endian order. The last word of a row is filled with zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels import words as kernel
from modelkit.kernels.words import unpack

if TYPE_CHECKING:
    from modelkit.tensors import Array


__all__ = ["pack", "unpack", "words"]


def words(count: int, bits: int, word: int = 32) -> int:
    """Words of `word` bits that hold `count` dense codes."""
    return -(-count * bits // word)


def pack(codes: Array, bits: int, word: int = 32) -> Array:
    """uint8 [row, code] -> uint8 [row, byte], filled up to whole words of `word` bits."""
    return kernel.pack(codes, bits, words(codes.shape[1], bits, word) * word // 8)
