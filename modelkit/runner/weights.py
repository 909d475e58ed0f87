"""Canonical tensors as float32: kept in memory as far as a budget allows, else decoded in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.runner.canonical import Canonical
from modelkit.runs import Runs
from modelkit.sources import Opener

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Shape, Span

FEW = 4
"""Up to so many vectors, multiplying one by one is faster than one product of matrices."""


class Weights:
    """The tensors of one model. `keep` bytes may be held as float32, in the order of first use.

    What a block of rows is depends on shapes alone, so results do not depend on `keep` or on encodings.
    """

    def __init__(self, tensors: Mapping[str, Canonical], opener: Opener, keep: int = 0) -> None:
        self.tensors = tensors
        self.keep = keep
        self._opener = opener
        self.held = 0  # bytes of matrices in memory
        self._kept: dict[str, F32] = {}
        self._views: dict[str, list[tuple[int, F32]]] = {}
        self._vectors: dict[str, F32] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> Shape:
        return self.tensors[name].shape

    def vector(self, name: str) -> F32:
        """A norm or a bias, whole; held from then on."""
        values = self._vectors.get(name)
        if values is None:
            values = self._decoded(self.tensors[name], 0, self.tensors[name].shape[0]).reshape(-1)
            self._vectors[name] = values
        return values

    def rows(self, name: str, first: int, count: int) -> F32:
        """Rows `first` to `first + count` of a matrix: [count, columns]."""
        kept = self._kept.get(name)
        return kept[first : first + count] if kept is not None else self._decoded(self.tensors[name], first, count)

    def gather(self, name: str, numbers: Array) -> F32:
        """Single rows of a matrix by number: [len(numbers), columns]."""
        kept = self._kept.get(name)
        if kept is not None:
            return kept[numbers]
        tensor = self.tensors[name]
        if tensor.together > tensor.rows:
            return self._whole(tensor)[numbers]
        each, places = np.unique(numbers, return_inverse=True)
        runs = self._runs(tensor)
        found = [_decoded(tensor, runs, int(number), 1)[0] for number in each]
        return np.stack(found)[places.reshape(-1)]

    def product(self, name: str, x: F32, out: F32 | None = None) -> F32:
        """x [vectors, columns] times the transposed matrix, plus its bias where there is one: [vectors, rows]."""
        y = np.empty((len(x), self.tensors[name].shape[0]), np.float32) if out is None else out
        for first, block in self.blocks(name):
            multiply(x, block, y[:, first : first + len(block)])
        bias = name[:-6] + "bias"  # in place of "weight"
        if bias in self.tensors:
            y += self.vector(bias)
        return y

    def blocks(self, name: str) -> Iterable[tuple[int, F32]]:
        """(first row, rows) of the blocks that `product` multiplies by, in order."""
        views = self._views.get(name)
        if views is not None:
            return views
        tensor = self.tensors[name]
        if self.held + 4 * tensor.tensor.count > self.keep:
            return self._streamed(tensor)
        values = self._kept[name] = self._whole(tensor)
        self.held += values.nbytes
        self._views[name] = [(first, values[first : first + count]) for first, count in tensor.cuts()]
        return self._views[name]

    def _streamed(self, tensor: Canonical) -> Iterator[tuple[int, F32]]:
        whole = self._whole(tensor) if tensor.together > tensor.rows else None
        runs = self._runs(tensor)
        for first, count in tensor.cuts():
            yield first, _decoded(tensor, runs, first, count) if whole is None else whole[first : first + count]

    def _whole(self, tensor: Canonical) -> F32:
        runs = self._runs(tensor)
        if tensor.together > tensor.rows:  # an encoding that must be decoded at once
            return _decoded(tensor, runs, 0, tensor.shape[0])
        values = np.empty(tensor.shape, np.float32)
        for first, count in tensor.cuts():
            values[first : first + count] = _decoded(tensor, runs, first, count)
        return values

    def _decoded(self, tensor: Canonical, first: int, count: int) -> F32:
        return _decoded(tensor, self._runs(tensor), first, count)

    def _runs(self, tensor: Canonical) -> Runs:
        """What lies across all rows is read once and stays in memory while blocks follow each other."""
        whole = [part.whole for part in tensor.tensor.parts]
        shape = (tensor.shape[0], tensor.columns)
        return Runs(tensor.tensor.encoding, shape, tensor.spans, whole, self._read)

    def _read(self, span: Span) -> Array:
        return np.frombuffer(self._opener.open(span.file).read(span.start, span.size), np.uint8)


def _decoded(tensor: Canonical, runs: Runs, first: int, count: int) -> F32:
    """Decode the smallest run of rows that stands alone and holds these."""
    start = first - first % tensor.together
    end = min(-(-(first + count) // tensor.together) * tensor.together, tensor.shape[0])
    values = runs.values(start, end - start)
    for step in tensor.steps:
        values = step.apply(values)
    return np.ascontiguousarray(values[first - start : first - start + count], np.float32)


def multiply(x: F32, rows: F32, out: F32) -> None:
    """out [vectors, rows] = x [vectors, columns] times rows [rows, columns] transposed."""
    if len(x) <= FEW:
        for vector, result in zip(x, out, strict=True):
            np.dot(rows, vector, out=result)
    else:
        np.matmul(x, rows.T, out=out)
