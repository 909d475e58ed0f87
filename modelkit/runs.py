"""Runs of rows of a stored tensor: read alone where its parts can be cut, else out of parts that are read whole.

The one place that knows how the rows of an encoding of several parts are reached; whoever decodes, compares,
hashes or writes them asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import TYPE_CHECKING, cast

from modelkit.lazy import np
from modelkit.tensors import Encoding, Grid, Grouped, Shape, Sliced, Span, Tensor, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Codes

Read = Callable[[Span], "Array"]
"""The bytes of a span: uint8."""


NAME = "x.weight"
"""Stands for a weight's name where only dtypes, sizes and kinds of its parts are asked for."""


def sliced(encoding: Encoding) -> Sliced | None:
    """The encoding, when it is worked on in runs of rows."""
    return cast("Sliced", encoding) if hasattr(encoding, "values") and hasattr(encoding, "constants") else None


def grouped(encoding: Encoding) -> Grouped | None:
    """The encoding, when it gives and takes codes."""
    grid = getattr(encoding, "grid", None)
    return cast("Grouped", encoding) if isinstance(grid, Grid) and hasattr(encoding, "codes") else None


def layout_of(encoding: Encoding) -> str:
    """The quantised layout that stores it in safetensors; "" for what needs none."""
    return str(getattr(encoding, "layout", None) or "")


def together(encoding: Encoding, shape: Shape) -> int:
    """The smallest number of rows that can be read or written without the others."""
    rows, columns = matrix(shape)
    return max(1, min(lcm(encoding.unit(shape), max(columns, 1)) // max(columns, 1), rows))


def lies_across(encoding: Encoding, shape: Shape) -> bool:
    """Whether rows lie across the parts, which are read whole and worked on run by run all the same."""
    return sliced(encoding) is not None and together(encoding, shape) >= matrix(shape)[0]


@dataclass(slots=True)
class Runs:
    """Rows of one tensor, or of a run of its rows: `shape` and `spans` say which, `whole` which parts belong to all.

    What is read whole is kept until the next tensor.
    """

    encoding: Encoding
    shape: Shape
    spans: Sequence[Span]
    whole: Sequence[bool]
    read: Read
    together: int = field(init=False)
    _kept: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.together = together(self.encoding, self.shape)

    def values(self, first: int, count: int) -> F32:
        """float32 [count, column]: the real values rounded once."""
        parts, shape, rows = self._stored(first, count)
        encoding = sliced(self.encoding)
        if encoding is not None:
            return encoding.values(parts, shape, rows)
        return self.encoding.unpack(parts, shape).reshape(shape)[rows]

    def codes(self, first: int, count: int) -> Codes:
        """What is stored of these rows."""
        encoding = grouped(self.encoding)
        assert encoding is not None  # noqa: S101 - whoever asks for codes has looked
        return encoding.codes(*self._stored(first, count))

    def _stored(self, first: int, count: int) -> tuple[list[Array], tuple[int, int], slice]:
        """Parts that hold these rows, the shape of what they hold, and where in it the rows are."""
        rows, columns = matrix(self.shape)
        unit = self.together
        start, end = first // unit * unit, min(-(-(first + count) // unit) * unit, rows)
        parts = []
        for number, (span, whole) in enumerate(zip(self.spans, self.whole, strict=True)):
            if whole or (start, end) == (0, rows):
                if number not in self._kept:
                    self._kept[number] = self.read(span)
                parts.append(self._kept[number])
            else:
                parts.append(self.read(span.cut(start, end - start, rows)))
        return parts, (end - start, columns), slice(first - start, first - start + count)


def runs_of(tensor: Tensor, spans: Mapping[str, Span], read: Read) -> Runs:
    """All rows of a tensor of a model whose parts lie at `spans`."""
    placed = tensor.cut(spans, 0, tensor.count)
    return Runs(tensor.encoding, tensor.shape, placed, [part.whole for part in tensor.parts], read)


@dataclass(slots=True)
class Placing:
    """Rows of one tensor to be written: into whole buffers where rows lie across the parts, else run by run.

    `write` puts bytes at a span; spans of size 0 are constants, which nobody writes.
    """

    encoding: Encoding
    shape: Shape
    spans: Sequence[Span]
    write: Callable[[Span, Array], None]
    across: bool = field(init=False)
    _buffers: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.across = lies_across(self.encoding, self.shape)

    def codes(self, codes: Codes, first: int) -> None:
        """Rows from `first` on as codes of the encoding's own grid."""
        encoding = grouped(self.encoding)
        assert encoding is not None  # noqa: S101 - whoever places codes has looked
        count = len(codes.codes)
        if self.across:
            if not self._buffers:
                self._buffers = _empty(self.encoding, self.shape)
            encoding.place(codes, self._buffers, matrix(self.shape), slice(first, first + count))
            return
        shape = (count, matrix(self.shape)[1])
        parts = _empty(self.encoding, shape)
        encoding.place(codes, parts, shape, slice(0, count))
        self._write(parts, first, count)

    def values(self, values: F32, first: int, importance: F32 | None = None) -> None:
        """Rows from `first` on, packed from floats; all rows at once where they lie across the parts."""
        parts = self.encoding.pack(values, importance)
        self._write([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts], first, len(values))

    def finish(self) -> None:
        """Write what was gathered."""
        if self._buffers:
            self._write(self._buffers, 0, matrix(self.shape)[0])

    def _write(self, parts: Sequence[Array], first: int, count: int) -> None:
        rows = matrix(self.shape)[0]
        whole = [part.whole for part in self.encoding.parts(NAME, self.shape)]
        for part, span, every in zip(parts, self.spans, whole, strict=True):
            if span.size:
                self.write(span if every else span.cut(first, count, rows), part)


def _empty(encoding: Encoding, shape: Shape) -> list[Array]:
    return [np.zeros(part.size, np.uint8) for part in encoding.parts(NAME, shape)]
