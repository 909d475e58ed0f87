"""What is done to a weight between reading and writing. One file for each step; all are picklable values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modelkit.tensors import Array


class Step(Protocol):
    """A change of the order of rows. It moves whole rows, so it works on stored bytes as well as on values."""

    @property
    def rows(self) -> int:
        """The smallest run of rows that can be changed without the others."""

    def apply(self, rows: Array) -> Array:
        """The same rows [rows, anything] in their new order."""
