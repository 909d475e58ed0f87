"""Pieces through a pool of threads, in their order, a bounded number at a time: this bounds the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

IN_FLIGHT = 3
"""Pieces in work for each thread."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def in_order(executor: Executor, work: Callable[[Item], Found], items: Iterable[Item], depth: int) -> Iterator[Found]:
    """`work` on every item; results in the items' order, at most `depth` of them waiting."""
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            if len(waiting) >= depth:
                yield waiting.popleft().result()
            waiting.append(executor.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
