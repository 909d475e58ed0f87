"""Runs of zero pages in a file, and the zeros at its end: what an interrupted download into a preallocated file leaves.

A page is 4 KiB of the file, the unit in which file systems leave holes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.sources import Source
    from modelkit.tensors import Array

PAGE = 4096
LEAST_RUN = 16  # pages; 64 KiB
MOST_RUNS = 1000
PIECE = 1 << 20


class Zeros:
    """Collects runs of zero pages. Pieces come in order and begin at pages."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []  # [first page, pages]

    def feed(self, data: Array, start: int) -> None:
        """One piece (uint8); a last half-filled page is no page."""
        count = len(data) // PAGE
        if not count:
            return
        words = data[: count * PAGE].view("<u8").reshape(count, PAGE // 8)
        likely = np.flatnonzero(words[:, 0] == 0)  # one word tells nearly all pages apart
        if not len(likely):
            return
        zero = likely[~words[likely].any(axis=1)] if len(likely) < count else np.flatnonzero(~words.any(axis=1))
        breaks = np.flatnonzero(np.diff(zero) != 1)
        edges = [0, *(breaks + 1).tolist(), len(zero)]
        for begin, end in pairwise(edges):
            if begin < end:
                self._add(start // PAGE + int(zero[begin]), end - begin)

    def _add(self, first: int, count: int) -> None:
        last = self._runs[-1] if self._runs else None
        if last is not None and last[0] + last[1] == first:
            last[1] += count
            return
        if last is not None and last[1] < LEAST_RUN:
            self._runs.pop()
        if len(self._runs) < MOST_RUNS:
            self._runs.append([first, count])

    def runs(self) -> tuple[tuple[int, int], ...]:
        """(start, size) in bytes of every run that is long enough."""
        return tuple((first * PAGE, count * PAGE) for first, count in self._runs if count >= LEAST_RUN)


def tail(source: Source) -> int:
    """How many zero bytes the file ends in; read backwards as far as they go."""
    end = source.size
    while end > 0:
        start = max(0, end - PIECE)
        rest = source.read(start, end - start).rstrip(b"\0")
        if rest:
            return source.size - start - len(rest)
        end = start
    return source.size
