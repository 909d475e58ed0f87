"""Codes of 3, 5, 6 or 7 bits as compressed-tensors packed them until May 2026: no code crosses a word.

A word of 32 bits holds 32 // bits codes, the first in its lowest bits; what is left at its top is zero. For 1, 2,
4 and 8 bits nothing is left, and this is the dense packing of `_bits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.kernels.words import unpack_padded as unpack
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


__all__ = ["leaves_top_bits", "unpack", "words"]


def words(count: int, bits: int) -> int:
    """Words that hold `count` codes."""
    return -(-count // (32 // bits))


def leaves_top_bits(packed: Array, bits: int) -> bool:
    """Whether the bits that this packing leaves at the top of a word are zero everywhere: uint8 [byte]."""
    stored = packed.view("<u4")
    return not bool((stored >> np.uint32(32 // bits * bits)).any())
