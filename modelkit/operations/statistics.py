"""What the numbers of a model are like: one pass over its tensors, in flat memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING

from modelkit.encodings import RAW
from modelkit.encodings._strided import Strided
from modelkit.errors import Unsupported
from modelkit.kernels import arrays
from modelkit.lazy import np
from modelkit.operations.opening import Opened
from modelkit.operations.reading import DTYPES
from modelkit.plan import PIECE, tiles
from modelkit.runs import Runs, runs_of, sliced
from modelkit.tensors import Encoding, Span, Tensor, matrix

if TYPE_CHECKING:
    from modelkit.tensors import Array

Progress = Callable[[int, int], None]
"""Called with (bytes looked at, bytes in all) after each tensor."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one tensor's real values. Those from `min` to `abs_max` are of the finite ones, None where there are none.

    `why`: the reason why it could not be looked at, "" for one that was.
    """

    name: str
    encoding: str
    values: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    abs_max: float | None = None
    zeros: int = 0
    nan: int = 0
    infinite: int = 0
    why: str = ""


def statistics(opened: Opened, tensors: Iterable[Tensor], progress: Progress | None = None) -> list[Statistics]:
    """One for each tensor, in their order. Raises BrokenFile when a file ends early, Unsupported for a URL."""
    chosen, lock = list(tensors), threading.Lock()
    _ = opened.disk
    total, done, found = sum(tensor.size for tensor in chosen), 0, []
    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        for tensor, one in zip(chosen, executor.map(lambda t: _of(opened, t, lock), chosen), strict=True):
            found.append(one)
            done += tensor.size
            if progress:
                progress(done, total)
    return found


def _of(opened: Opened, tensor: Tensor, lock: threading.Lock) -> Statistics:
    low, high, around, apart, squares = inf, -inf, None, 0.0, 0.0
    zeros = nan = infinite = 0
    try:
        for values in _pieces(opened, tensor, lock):
            if around is None:  # the first finite value: of a constant the deviation is 0, not nearly 0
                finite = values[np.isfinite(values)]
                around = float(finite[0]) if len(finite) else None
            one = arrays.statistics(values, around or 0.0)
            low, high, apart, squares = min(low, one[0]), max(high, one[1]), apart + one[2], squares + one[3]
            zeros, nan, infinite = zeros + one[4], nan + one[5], infinite + one[6]
    except Unsupported as error:
        return Statistics(tensor.name, tensor.encoding.name, tensor.count, why=error.message)
    head, counts = (tensor.name, tensor.encoding.name, tensor.count), (zeros, nan, infinite)
    count = tensor.count - nan - infinite
    if not count:
        return Statistics(*head, None, None, None, None, None, *counts)
    spread = apart / count
    deviation = sqrt(max(squares / count - spread * spread, 0.0)) if isfinite(squares) else None
    return Statistics(*head, low, high, (around or 0.0) + spread, deviation, max(abs(low), abs(high)), *counts)


def _pieces(opened: Opened, tensor: Tensor, lock: threading.Lock) -> Iterator[Array]:
    """The values, a piece at a time; their order does not matter here."""

    def read(span: Span) -> Array:
        with lock:
            source = opened.disk.open(span.file)
        return np.frombuffer(source.read(span.start, span.size), np.uint8)

    encoding: Encoding = tensor.encoding
    if sliced(encoding) is not None and len(tensor.shape) > 1:
        yield from _slabs(tensor, runs_of(tensor, opened.model.spans, read))
        return
    if isinstance(encoding, Strided):
        encoding = encoding.base
    for first, count in tiles(tensor.count, 1, encoding.unit(tensor.shape), PIECE):
        yield _values(encoding, [read(span) for span in tensor.cut(opened.model.spans, first, count)], count)


def _slabs(tensor: Tensor, rows: Runs) -> Iterator[Array]:
    """Of an encoding that is worked on in rows, some of which may lie across its parts."""
    height, columns = matrix(tensor.shape)
    for first, count in tiles(height, 1, 1, max(PIECE // max(columns, 1), 1)):
        yield rows.values(first, count).reshape(-1)


def _values(encoding: Encoding, stored: list[Array], count: int) -> Array:
    """Numbers of any dtype; integers as they are."""
    wide = DTYPES.get(str(encoding.dtype)) if encoding.name in ("f64", *(raw.name for raw in RAW.values())) else None
    if wide is None or encoding.dtype == "C64":
        return encoding.unpack(stored, (count,)).reshape(-1)
    return stored[0].view(wide)
