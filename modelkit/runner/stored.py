"""Matrices as their files have them: bytes that are kept or read each time, and multiplied by without unpacking."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.runner.canonical import Canonical
from modelkit.sources import Opener
from modelkit.tensors import Multiplying

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Span


class Stored:
    """The stored bytes of one model's tensors. `size` is how many of them are in memory."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._kept: dict[str, tuple[Array, ...]] = {}
        self.size = 0

    def keeps(self, tensor: Canonical) -> bool:
        return tensor.tensor.name in self._kept

    def keep(self, tensor: Canonical) -> None:
        """Read a tensor whole and hold it from now on."""
        self._kept[tensor.tensor.name] = self.parts(tensor, 0, tensor.shape[0])
        self.size += tensor.tensor.size

    def reader(self, tensor: Canonical) -> Callable[[Span], Array]:
        """The bytes of any span of a tensor's parts, out of memory where it is kept."""
        kept = self._kept.get(tensor.tensor.name)

        def read(span: Span) -> Array:
            for number, whole in enumerate(tensor.spans if kept is not None else ()):
                if kept is not None and whole.file == span.file and whole.start <= span.start <= span.end <= whole.end:
                    return kept[number][span.start - whole.start : span.end - whole.start]
            return np.frombuffer(self._opener.open(span.file).read(span.start, span.size), np.uint8)

        return read

    def parts(self, tensor: Canonical, first: int, count: int) -> tuple[Array, ...]:
        """The bytes of rows that stand alone: one uint8 array for each part."""
        kept, found = self._kept.get(tensor.tensor.name), []
        for number, span in enumerate(tensor.spans):
            cut = span.cut(first * tensor.columns, count * tensor.columns, tensor.tensor.count)
            if kept is not None:
                found.append(kept[number][cut.start - span.start : cut.end - span.start])
            else:
                found.append(np.frombuffer(self._opener.open(cut.file).read(cut.start, cut.size), np.uint8))
        return tuple(found)

    def times(self, tensor: Canonical, first: int, count: int, vector: F32) -> F32:
        """Rows that stand alone times a vector [columns]: float32 [rows], in canonical order."""
        encoding = tensor.tensor.encoding
        assert isinstance(encoding, Multiplying)  # noqa: S101 - Canonical.multiplies looked
        found = encoding.multiply(self.parts(tensor, first, count), (count, tensor.columns), vector)
        for step in tensor.steps:  # what reorders rows reorders their products
            found = step.apply(found[:, None])[:, 0]
        return found
