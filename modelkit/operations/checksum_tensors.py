"""A digest for each stored array: the bytes as the file has them. One changed bit names its tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from modelkit.operations.checksum_work import Meter, Progress, hash_span, side_by_side, source_of
from modelkit.operations.opening import Opened
from modelkit.tensors import Span


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A tensor, or one part of a tensor that has several, in its file. `path` is the file's, as the user would say."""

    path: str
    name: str
    span: Span
    opened: Opened

    @property
    def title(self) -> str:
        return f"{self.path}:{self.name}"


def arrays_of(opened: Opened, title: str) -> list[StoredArray]:
    """Every stored array, in the order of files and of bytes within them. `title` is the path that was named."""
    folder = title if opened.opener.main is None else os.path.dirname(title)
    found = []
    for name, span in opened.model.spans.items():
        path = (
            title if span.file == opened.opener.main else f"{folder.rstrip('/')}/{span.file}" if folder else span.file
        )
        found.append(StoredArray(path, name, span, opened))
    return sorted(found, key=lambda array: (array.path, array.span.start))


def stored_digests(
    arrays: Sequence[StoredArray], workers: int | None = None, progress: Progress | None = None
) -> list[str]:
    """sha256 of each, in hex; several at once. `progress` is told bytes."""

    def work(array: StoredArray, meter: Meter) -> str:
        state = hashlib.sha256()
        hash_span(source_of(array.opened.disk, array.span.file), array.span.start, array.span.size, [state], meter)
        return state.hexdigest()

    return side_by_side(arrays, work, lambda array: array.span.size, workers, progress)
