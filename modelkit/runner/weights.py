"""Canonical tensors as float32: kept in memory as far as a budget allows, else decoded in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.runner.canonical import Canonical
from modelkit.runner.stored import Stored
from modelkit.runs import Runs
from modelkit.sources import Opener

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Shape

FEW = 4
"""Up to so many vectors, multiplying one by one is faster than one product of matrices."""


Watch = Callable[[str, "F32"], None]
"""Called with a matrix's name and the vectors [vectors, columns] that it is about to be multiplied by."""


class Weights:
    """The tensors of one model. `keep` bytes may be held, in the order of first use: as float32, or as stored where
    that is what is multiplied.

    What a block of rows is depends on shapes alone, so results do not depend on `keep` or on encodings. With `direct`
    they do depend on encodings, in their last bits: a single vector is then multiplied straight from the stored
    bytes where the encoding can do it, which reads a quarter of what float32 has.
    """

    def __init__(
        self,
        tensors: Mapping[str, Canonical],
        opener: Opener,
        keep: int = 0,
        watch: Watch | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.tensors = tensors
        self.keep = keep
        self._watch = watch
        self._stored = Stored(opener)
        self.held = 0  # bytes of matrices in memory
        self._kept: dict[str, F32] = {}
        self._views: dict[str, list[tuple[int, F32]]] = {}
        self._vectors: dict[str, F32] = {}
        self._direct = {name for name, tensor in tensors.items() if direct and tensor.multiplies}

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
        if self._watch is not None:
            self._watch(name, x)
        for _ in self.products(name, x, y):
            pass
        bias = name[:-6] + "bias"  # in place of "weight"
        if bias in self.tensors:
            y += self.vector(bias)
        return y

    def products(self, name: str, x: F32, out: F32 | None = None) -> Iterator[tuple[int, F32]]:
        """(first row, x [vectors, columns] times a block of rows) for each block in order; put into `out` if given."""
        straight = len(x) == 1 and name in self._direct
        for first, block in self._straight(name, x[0]) if straight else self.blocks(name):
            y = out[:, first : first + len(block)] if out is not None else np.empty((len(x), len(block)), np.float32)
            if straight:
                y[0] = block
            else:
                with np.errstate(all="ignore"):  # what is not finite shows in the layer's output
                    multiply(x, block, y)
            yield first, y

    def _straight(self, name: str, vector: F32) -> Iterator[tuple[int, F32]]:
        """(first row, rows times the vector), from what is stored; a row's product depends on no other row."""
        tensor = self.tensors[name]
        self._hold(tensor)
        for first, count in [(0, tensor.shape[0])] if self._stored.keeps(tensor) else tensor.cuts():
            yield first, self._stored.times(tensor, first, count, vector)

    def _hold(self, tensor: Canonical) -> None:
        """Keep what is stored, if there is room."""
        if not self._stored.keeps(tensor) and self.held + tensor.tensor.size <= self.keep:
            self._stored.keep(tensor)
            self.held += tensor.tensor.size

    def blocks(self, name: str) -> Iterable[tuple[int, F32]]:
        """(first row, rows) of the blocks that `product` multiplies by, in order."""
        views = self._views.get(name)
        if views is not None:
            return views
        tensor = self.tensors[name]
        if name in self._direct:
            self._hold(tensor)
            return self._streamed(tensor)
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
        shape, read = (tensor.shape[0], tensor.columns), self._stored.reader(tensor)
        return Runs(tensor.tensor.encoding, shape, tensor.spans, whole, read)


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
