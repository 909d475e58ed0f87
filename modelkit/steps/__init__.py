"""What is done to a weight between reading and writing. One file for each step; all are picklable values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modelkit.tensors import Array


class Step(Protocol):
    """A change between what is read and what is written.

    Most only move whole rows, so they work on stored bytes as well as on values. One that adds to every
    value says so in `shift`: it needs the values, and what is lost is measured on what they mean.
    """

    @property
    def rows(self) -> int:
        """The smallest run of rows that can be changed without the others."""

    @property
    def shift(self) -> int:
        """What is added to every value: 0 where rows only move."""

    def apply(self, rows: Array) -> Array:
        """The same rows [rows, anything], changed."""
