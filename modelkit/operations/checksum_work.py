"""Read and hash at once: pieces are read ahead while others are hashed, many files or tensors side by side.

hashlib lets go of the interpreter while it hashes, and so do reads: threads use all cores. Every thread has
buffers of its own that it keeps, so memory does not grow with what is hashed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from queue import SimpleQueue
from typing import Protocol, TypeVar

from modelkit.sources import Disk, LocalFile

PIECE = 1 << 20
"""Bytes read and hashed at once."""

AHEAD = 4
"""Pieces that are read before they are hashed."""

LARGE = 64 * PIECE
"""From this size on, reading has a thread of its own."""

POLL = 0.1  # seconds between two reports of progress

Progress = Callable[[int, int], None]
"""Called with (done, in all), both in the same unit."""

_opening = threading.Lock()

Item = TypeVar("Item")
Found = TypeVar("Found")


class Updates(Protocol):
    """What takes bytes: a state of hashlib."""

    def update(self, data: memoryview, /) -> None: ...


class Meter:
    """Counts what all threads have done; ends them when it is told to stop."""

    def __init__(self) -> None:
        self.done = 0
        self.stopped = False
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Raises Stopped when somebody has lost interest."""
        with self._lock:
            self.done += count
        if self.stopped:
            raise Stopped


class Stopped(Exception):
    """The work was called off."""


def side_by_side(
    items: Sequence[Item],
    work: Callable[[Item, Meter], Found],
    size: Callable[[Item], int],
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Found]:
    """`work` on every item, the largest first, on `workers` threads (None = cores); results in the items' order.

    The first exception ends all of it. `work` tells the meter what it has done, in the unit of `size`.
    """
    meter, total = Meter(), sum(size(item) for item in items)
    order = sorted(range(len(items)), key=lambda number: -size(items[number]))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
        futures = {number: executor.submit(work, items[number], meter) for number in order}
        waiting = set(futures.values())
        try:
            while waiting:
                done, waiting = wait(waiting, POLL if progress else None, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress:
                    progress(meter.done, total)
        except BaseException:
            meter.stopped = True
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [futures[number].result() for number in range(len(items))]


def source_of(opener: Disk, name: str) -> LocalFile:
    """One of a model's files, for a thread; the opener closes the oldest when there are many."""
    with _opening:
        return opener.open(name)


def hash_span(source: LocalFile, start: int, size: int, states: Sequence[Updates], meter: Meter) -> None:
    """Feed `size` bytes from `start` to every state. Raises BrokenFile when the file ends before."""
    pieces = _ahead(source, start, size) if size >= LARGE else _one_by_one(source, start, size)
    with closing(pieces):
        for piece in pieces:
            for state in states:
                state.update(piece)
            meter.add(len(piece))


def _one_by_one(source: LocalFile, start: int, size: int) -> Generator[memoryview, None, None]:
    buffer = memoryview(bytearray(min(size, PIECE)))
    for at in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - at)]
        source.read_into(start + at, piece)
        yield piece


def _ahead(source: LocalFile, start: int, size: int) -> Generator[memoryview, None, None]:
    """The same with a second thread that reads: hashing never waits for a copy."""
    free: SimpleQueue[memoryview | None] = SimpleQueue()
    full: SimpleQueue[memoryview | BaseException] = SimpleQueue()
    for _ in range(AHEAD):
        free.put(memoryview(bytearray(PIECE)))

    def read() -> None:
        try:
            for at in range(0, size, PIECE):
                buffer = free.get()
                if buffer is None:
                    return
                piece = buffer[: min(PIECE, size - at)]
                source.read_into(start + at, piece)
                full.put(piece)
        except BaseException as error:  # noqa: BLE001 - it is raised again by who waits for the piece
            full.put(error)

    reader = threading.Thread(target=read, name="reader", daemon=True)
    reader.start()
    try:
        for _ in range(0, size, PIECE):
            found = full.get()
            if isinstance(found, BaseException):
                raise found
            yield found
            free.put(found)
    finally:
        free.put(None)
        reader.join()
