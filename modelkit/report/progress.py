"""A bar with bytes a second and time left: on a terminal only, and only for work over two seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds before a bar appears
SCALE = 1000  # length of a bar that counts no bytes


@contextmanager
def progress(title: str, size: int | None, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function to call with (done, total), or None where no bar is wanted. `size`: bytes written."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    bar = _Bar(title, size)
    try:
        yield bar.update
    finally:
        bar.close()


class _Bar:
    """rich's progress bar, imported when the work turns out to be long."""

    def __init__(self, title: str, size: int | None) -> None:
        self.title = title
        self.size = size
        self.began = time.monotonic()
        self._live: Any = None
        self._task: Any = None

    def update(self, done: int, total: int) -> None:
        if self._live is None:
            if time.monotonic() - self.began < PATIENCE:
                return
            self._open()
        self._live.update(self._task, completed=(self.size or SCALE) * done // max(total, 1))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        bytes_moved = (DownloadColumn(), TransferSpeedColumn()) if self.size is not None else ()
        columns = (TextColumn("{task.description}"), BarColumn(), *bytes_moved, TimeRemainingColumn())
        self._live = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._live.add_task(self.title, total=self.size or SCALE)
        self._live.start()
