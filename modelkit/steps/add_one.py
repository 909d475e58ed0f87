"""Norm weights between the two ways of storing them: w of a factor (1 + w), or the factor itself.

    +1   w -> 1 + w   from Hugging Face folders (Gemma)
    -1   1 + w -> w   into them

The sum is rounded once to float32, as llama.cpp's converter does: a w below 2^-24 is lost in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


@dataclass(frozen=True, slots=True)
class AddOne:
    """`shift` is 1 or -1."""

    shift: int
    rows: ClassVar[int] = 1

    def apply(self, rows: Array) -> Array:
        shifted: Array = rows + np.float32(self.shift)
        return shifted
