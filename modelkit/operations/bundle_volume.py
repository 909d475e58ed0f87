"""Write one volume: planes and table into stripes, each of them digested, added to the parity and written."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.bundles import limits
from modelkit.bundles.layout import Entry
from modelkit.moving import write_at
from modelkit.sources import explained

if TYPE_CHECKING:
    from hashlib import _Hash

Stored = Sequence[bytes | memoryview]
Absorb = Callable[[int, memoryview], None]
"""Told each stripe's number and bytes: the parity."""

BUFFERS = 4  # stripes: one is filled while others are digested
ENDLESS = 1 << 62


class VolumeWriter:
    """Takes pieces until the body is full. `body` 0: until there are no more."""

    def __init__(
        self, path: Path, head: bytes, body: int, stripe: int, executor: Executor, absorb: Absorb | None
    ) -> None:
        self.path = path
        self.stripe = stripe
        self.used = 0  # bytes of the body so far
        self.pieces = 0
        self.table_start = 0
        self.table = bytearray()
        self.digest: _Hash = hashlib.sha256()
        self._limit = body or ENDLESS
        self._fixed = body
        self._executor = executor
        self._absorb = absorb
        self._digests: deque[Future[bytes]] = deque()
        self._found: list[bytes] = []
        self._free = [bytearray(stripe) for _ in range(BUFFERS)]
        self._buffer = self._free.pop()
        self._busy: deque[bytearray] = deque()
        self._filled = 0
        self._at = 0
        with explained(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            self._file = os.open(path, flags, 0o644)
        self.write(head)

    def takes(self, entry: Entry, row: bytes) -> bool:
        """Whether a piece still fits, with its line in the table."""
        table = len(self.table) + len(row)
        return self.used + entry.stored + table <= self._limit and table <= limits.TABLE

    def add(self, row: bytes, planes: Stored) -> None:
        """A piece: its line of the table, its stored planes."""
        self.table += row
        self.pieces += 1
        for plane in planes:
            self._fill(plane)

    def end_body(self, *, last: bool) -> tuple[int, bytes]:
        """Table and padding; returns (bytes of the body, stripe digests). The last body ends with its table."""
        self.table_start = self.used
        self._fill(bytes(self.table))
        end = self._fixed if self._fixed and not last else -(-self.used // self.stripe) * self.stripe
        padding = bytes(min(self.stripe, end - self.used))
        while self.used < end:
            self._fill(memoryview(padding)[: end - self.used])
        while self._digests:
            self._collect()
        return self.used, b"".join(self._found)

    def _fill(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.used += len(view)
        while view:
            room = self.stripe - self._filled
            part = view[:room]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[room:]
            if self._filled == self.stripe:
                self._flush()

    def _flush(self) -> None:
        """A stripe is full: digest it in another thread while it is written here."""
        stripe = memoryview(self._buffer)
        self._digests.append(self._executor.submit(_sha256, stripe))
        self._busy.append(self._buffer)
        if self._absorb is not None:
            self._absorb(len(self._found) + len(self._digests) - 1, stripe)
        self.write(stripe)
        if not self._free:
            self._collect()
        self._buffer, self._filled = self._free.pop(), 0

    def _collect(self) -> None:
        self._found.append(self._digests.popleft().result())
        self._free.append(self._busy.popleft())

    def write(self, data: bytes | memoryview) -> None:
        """Bytes of the file, in order: also head and tail, which are no part of the body."""
        view = memoryview(data)
        with explained(self.path):
            write_at(self._file, self._at, view)
        self._at += len(view)
        self.digest.update(view)

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._at

    def close(self, final: Path | None = None) -> None:
        """Sync and give the final name; without one, just close."""
        if self._file < 0:
            return
        with explained(self.path):
            try:
                if final is not None:
                    os.fsync(self._file)
            finally:
                os.close(self._file)
                self._file = -1
            if final is not None:
                os.replace(self.path, final)


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
