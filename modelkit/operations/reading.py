"""A model opened for reading: its tensors by name, their values read when they are asked for.

>>> model = open("fixtures/stories/model")
>>> model.format, len(model)
('Hugging Face folder', 29)
>>> tensor = model["model.layers.0.mlp.up_proj.weight"]
>>> tensor.shape, tensor.encoding, tensor.numpy().dtype
((512, 256), 'bf16', dtype(bfloat16))
>>> tensor.rows(0, 2).shape
(2, 256)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from modelkit.encodings._strided import Strided
from modelkit.errors import BadRequest
from modelkit.lazy import ml_dtypes, np
from modelkit.operations.opening import Opened, open_model
from modelkit.runs import runs_of, sliced
from modelkit.tensors import Span, Tensor

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

DTYPES: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
EXTENDED: Mapping[str, str] = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """One weight of an open model. Nothing is read until `numpy`, `rows` or `stored` is called."""

    described: Tensor
    opened: Opened

    @property
    def name(self) -> str:
        """As the file has it."""
        return self.described.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Slowest axis first."""
        return self.described.shape

    @property
    def encoding(self) -> str:
        """How its numbers are stored: `bf16`, `q8_0`, `llama2c:group=64`, or a dtype that is carried as it is."""
        return self.described.encoding.name

    def numpy(self) -> Array:
        """All values: stored floats and integers in their own dtype, quantised weights decoded to float32.

        Raises Unsupported for an encoding that modelkit cannot decode, BrokenFile when the file ends early.
        """
        if self.described.encoding.kind == "quantised":
            return self.rows(0, self.shape[0]) if self.shape else self._decoded(0, 1)
        (stored,) = self.stored()
        if isinstance(self.described.encoding, Strided):
            stored = self.described.encoding.straight(stored)
        values: Array = stored.view(_dtype(self.described.parts[0].dtype)).reshape(self.shape)
        return values

    def rows(self, first: int, count: int) -> F32:
        """`count` rows along the slowest axis from `first`, as float32 [count, ...], read alone where that can be.

        Raises BadRequest for rows that are not there.
        """
        if not self.shape or not 0 <= first <= first + count <= self.shape[0]:
            raise BadRequest(f"'{self.name}' has shape {list(self.shape)}: no rows {first} to {first + count}")
        if len(self.shape) > 1 and sliced(self.described.encoding) is not None:
            return self._of_layout(first, count)
        width = prod(self.shape[1:])
        unit = self.described.encoding.unit(self.shape)
        start = first * width // unit * unit  # whole units are read, and the excess cut off
        stop = min(-(-(first + count) * width // unit) * unit, self.described.count)
        values = self._decoded(start, stop - start)
        return values[first * width - start :][: count * width].reshape(count, *self.shape[1:])

    def stored(self) -> tuple[Array, ...]:
        """The bytes of each part as the file has them: uint8, one array a part."""
        return self._read(0, self.described.count)

    def _decoded(self, first: int, count: int) -> F32:
        """`count` values from `first`, in storage order."""
        return self.described.encoding.unpack(self._read(first, count), (count,)).reshape(-1)

    def _of_layout(self, first: int, count: int) -> F32:
        """Rows along the slowest axis, of an encoding that is worked on in rows along all but the fastest."""
        each = prod(self.shape[1:-1])
        runs = runs_of(self.described, self.opened.model.spans, self._bytes)
        return runs.values(first * each, count * each).reshape(count, *self.shape[1:])

    def _read(self, first: int, count: int) -> tuple[Array, ...]:
        return tuple(map(self._bytes, self.described.cut(self.opened.model.spans, first, count)))

    def _bytes(self, span: Span) -> Array:
        return np.frombuffer(self.opened.opener.open(span.file).read(span.start, span.size), np.uint8)


class OpenModel(Mapping[str, LazyTensor]):
    """The tensors of a file or folder by name, in the file's order. Only headers have been read."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self._tensors = {tensor.name: tensor for tensor in opened.model.tensors}

    @property
    def format(self) -> str:
        """`GGUF`, `safetensors`, `Hugging Face folder`, `llama2.c`."""
        return self.opened.format.title

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.opened.model.parameters

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says beside its tensors, in the format's own words; tokenizers and long arrays included."""
        return self.opened.format.facts(self.opened.model, self.opened.opener)

    def __getitem__(self, name: str) -> LazyTensor:
        return LazyTensor(self._tensors[name], self.opened)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<{self.format} {self.opened.opener.title!r}: {len(self)} tensors, {self.parameters:,} parameters>"


def open(path: str | os.PathLike[str]) -> OpenModel:
    """Open a model file or folder; reads its headers only.

    Raises BrokenFile, Unsupported or CannotAccess, all of them ModelkitError.
    """
    return OpenModel(open_model(path))


def _dtype(name: str) -> Any:
    if name in EXTENDED:
        return np.dtype(getattr(ml_dtypes, EXTENDED[name]))
    return np.dtype(DTYPES.get(name, "u1"))
