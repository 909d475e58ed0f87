"""What a model file holds, described without any of its data.

Everything here is frozen, picklable and free of numpy and of input or output: a description can be
printed, compared, planned with and sent to another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Array = NDArray[Any]

Shape = tuple[int, ...]
Kind = Literal["float", "quantised", "raw"]

BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of one element of every stored dtype, by its safetensors name."""


def matrix(shape: Shape) -> tuple[int, int]:
    """(rows, columns): a stack of matrices is one tall matrix, a vector is one row."""
    columns = shape[-1] if shape else 1
    return (prod(shape) // columns if columns else 0), columns


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes in one file: `size` bytes from `start`."""

    file: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size

    def cut(self, first: int, count: int, total: int) -> Span:
        """The bytes of `count` values from value `first`, when `total` values fill the span evenly."""
        start = self.size * first // total
        return Span(self.file, self.start + start, self.size * (first + count) // total - start)


@dataclass(frozen=True, slots=True)
class Part:
    """One array as a file stores it. `shape` is in elements of `dtype`, slowest axis first.

    `whole`: it belongs to every run of the tensor's rows alike (a scale for all of them, a map of columns), so
    that it is read whole with each run. Other parts are cut as the values are.
    """

    name: str
    dtype: str
    shape: Shape
    whole: bool = False

    @property
    def size(self) -> int:
        """Bytes; a last half-filled byte counts."""
        return -(-prod(self.shape) * BITS[self.dtype] // 8)


class Encoding(Protocol):
    """How numbers become bytes. Values are small frozen dataclasses, so that jobs can be pickled.

    `kind` is "float" (casts between them round at most), "quantised" (codes and scales) or "raw"
    (integers, bools and what modelkit carries without reading it).
    """

    @property
    def name(self) -> str:
        """What the user types and reads, with parameters: `q8_0`, `llama2c:group=64`."""

    @property
    def kind(self) -> Kind: ...

    @property
    def ggml(self) -> int | None:
        """The GGUF type number, None where GGUF has none."""

    @property
    def dtype(self) -> str | None:
        """The safetensors dtype of the single part, None where safetensors has none."""

    def unit(self, shape: Shape) -> int:
        """The smallest run of values, in storage order, that can be packed without the others."""

    def misfit(self, shape: Shape) -> str | None:
        """Why a tensor of this shape cannot be stored so, in words; None when it can."""

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        """The arrays that store a tensor of this name and shape."""

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        """The stored arrays of a run of values (a multiple of `unit`), one for each part.

        `importance`: float32 [column], how much an error in each column of the matrix matters; the run is
        of whole rows then. An encoding that searches no scale ignores it.
        """

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        """The values behind the stored bytes (uint8 arrays), shaped `shape`, float32, rounded once."""

    def holds(self, other: Encoding) -> bool:
        """Whether every value that `other` can store is stored here without rounding."""


Number = Literal["integer", "e2m1", "e2m3", "e4m3"]
Offset = Literal["middle", "integer", "float"]
Overall = Literal["none", "factor", "divisor"]


@dataclass(frozen=True, slots=True)
class Grid:
    """What a grouped encoding can express, known without data: codes of `bits` bits, `group` of them to a scale.

    `number`: what a code is; small floats have no offset ("middle"). `scale`: the dtype of scales, by its
    safetensors name. `offset`: where zero lies: "middle" = at code 2**(bits-1) everywhere, "integer" = at a
    code of its own for each group, "float" = a bias is added for each group. `group` 0 = the whole row.
    `mapped`: a stored map says which group a column belongs to (act-order); else columns come group by group.
    `tile`: groups span so many rows too (FP8 blocks of 128 x 128); 1 = those of a single row, 0 = all rows.
    `overall`: one more float32 for the whole tensor, which all scales are multiplied with or divided by (NVFP4).
    """

    bits: int
    group: int
    scale: str
    offset: Offset = "middle"
    number: Number = "integer"
    mapped: bool = False
    tile: int = 1
    overall: Overall = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A run of rows of a grouped weight. Integers: value = (code - zero) * scale, or code * scale + bias.

    codes   uint8 [row, column], 0 .. 2**bits - 1; layouts of signed codes are shifted by 2**(bits-1)
    scales  float32 [row, group], exactly the stored ones
    zeros   int16 [row, group] where the grid's offset is "integer", in the numbering of codes; else None
    biases  float32 [row, group] where it is "float"; else None
    groups  int32 [column]: the group of each column where the grid is mapped; else None
    factor  what every scale is multiplied by, exactly the stored one, where the grid has it; else 1
    divisor the same for a grid that has one to divide by
    """

    grid: Grid
    codes: Array
    scales: F32
    zeros: Array | None = None
    biases: F32 | None = None
    groups: Array | None = None
    factor: float = 1.0
    divisor: float = 1.0


class Sliced(Encoding, Protocol):
    """An encoding of several parts that is worked on in runs of rows.

    `unit` says whether the parts can be cut: a row or a few of them, or all values where rows lie across the
    parts (GPTQ); such parts are read whole and worked on run by run all the same. `shape` is that of the
    tensor [row, column] or of the run of it that `parts` hold; `rows` counts within it.
    """

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        """float32 [rows, column], the real values rounded once; parts are flat uint8 arrays."""

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        """Parts whose bytes follow from the shape (`weight_shape`, a plain `g_idx`), by the part's name."""


class Grouped(Sliced, Protocol):
    """Groups of codes that share a scale: repacked into one another without any float arithmetic."""

    @property
    def grid(self) -> Grid: ...

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """What is stored of these rows."""

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        """Write codes of this very grid into their place in `parts`, flat uint8 arrays of the final size.

        Raises BadValue for a scale that the stored dtype cannot hold exactly. Constant parts are left alone.
        """


@runtime_checkable
class Multiplying(Protocol):
    """An encoding whose matrices can be multiplied by a vector without being unpacked."""

    def multiplies(self, shape: Shape) -> bool:
        """Whether that is possible for [rows, columns], and quicker here than products of float32."""

    def multiply(self, parts: Sequence[Array], shape: Shape, vector: F32) -> F32:
        """float32 [rows] from stored bytes (uint8 arrays), shape [rows, columns] and a vector [columns].

        The real values of a row, rounded once, times the vector, added up as `kernels.groups.product` says.
        """


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight as the model means it. Most have one part; a grouped int4 weight has several."""

    name: str
    shape: Shape
    encoding: Encoding
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Stored bytes of all parts."""
        return sum(part.size for part in self.parts)

    def cut(self, spans: Mapping[str, Span], first: int, count: int) -> tuple[Span, ...]:
        """Where `count` values from value `first` lie: a share of each part, and whole those that belong to all."""
        total = self.count
        placed = ((part, spans[part.name]) for part in self.parts)
        return tuple(span if part.whole or not total else span.cut(first, count, total) for part, span in placed)


@dataclass(frozen=True, slots=True)
class Importance:
    """How much an error in each column of a matrix matters: float32 sums in a file, divided by a count when used.

    A tensor of several matrices (experts) of `rows` rows has `columns` sums and one count for each. A count
    of 0 or less says that a matrix was never used: all its columns matter alike.
    """

    file: str
    start: int
    columns: int
    rows: int
    counts: tuple[float, ...]
    digest: str  # of the whole file: another file is another plan


@dataclass(frozen=True, slots=True)
class Model:
    """What a file or folder holds, known from its headers alone.

    `spans` says where each part's bytes lie, by part name. `metadata` is what the format itself
    states (config.json, key-values, header fields) in that format's own words.
    """

    tensors: tuple[Tensor, ...]
    spans: Mapping[str, Span] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(tensor.count for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of an output. `literals` are its bytes that are known before any tensor data is read."""

    name: str
    size: int
    literals: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every byte of an output goes: a single file, a split set and a folder alike.

    `model.spans` places each part of each tensor in one of `files`.
    """

    files: tuple[OutputFile, ...]
    model: Model

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)
