"""Reorder the rows of q and k between the two ways of pairing rotary dimensions.

    "halves"  dimension i is rotated together with i + d/2   (Hugging Face)
    "pairs"   dimension 2i is rotated together with 2i + 1   (GGUF llama, llama2.c, Meta)

Rows of one head: halves (a0 a1 .. b0 b1 ..) <-> pairs (a0 b0 a1 b1 ..).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


@dataclass(frozen=True, slots=True)
class PermuteRope:
    """`rows` is the size of a head; `into` is the pairing that is written."""

    rows: int
    into: Literal["pairs", "halves"]
    shift: ClassVar[int] = 0

    def apply(self, rows: Array) -> Array:
        first, second = (2, self.rows // 2) if self.into == "pairs" else (self.rows // 2, 2)
        heads = rows.reshape(-1, first, second, rows.shape[-1])  # (head, half, pair, in) or (head, pair, half, in)
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
