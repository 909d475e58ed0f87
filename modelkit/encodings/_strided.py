"""A tensor whose elements lie in another order than its shape says: PyTorch's transposed views, Fortran arrays.

Only orders that fill their bytes without gaps are meant: strides of a permutation of the axes. Such a tensor is
read whole, because neighbours in the shape lie far apart in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.errors import Unsupported
from modelkit.lazy import np
from modelkit.tensors import BITS, Encoding, Part, Shape, Tensor

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Kind


@dataclass(frozen=True, slots=True)
class Strided:
    """`base` says how an element is stored, `strides` how many elements lie between neighbours of `shape`'s axes."""

    base: Encoding
    shape: Shape
    strides: Shape
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None

    @property
    def name(self) -> str:
        """The element's encoding: the order is a matter of the file."""
        return self.base.name

    @property
    def kind(self) -> Kind:
        return self.base.kind

    def unit(self, shape: Shape) -> int:
        return prod(shape)

    def misfit(self, shape: Shape) -> str | None:
        return None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        return self.base.parts(name, shape)

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        raise Unsupported("nothing is written in another order than its shape")

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        """All values, put into the order of the tensor's shape."""
        flat = self.base.unpack(parts, (prod(self.shape),))
        values: F32 = self.straight(flat).reshape(shape)
        return values

    def straight(self, stored: Array) -> Array:
        """Values or bytes of the whole tensor in the order of its shape."""
        return Straighten(self.shape, self.strides).apply(stored)

    def holds(self, other: Encoding) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Straighten:
    """The step that puts the elements of a Strided tensor into the order of its shape; `rows` are all of them."""

    shape: Shape
    strides: Shape
    shift: ClassVar[int] = 0

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    def apply(self, rows: Array) -> Array:
        """Values or bytes of the whole tensor, [rows, anything] -> the same shape."""
        width = rows.size // prod(self.shape)  # bytes of an element where bytes are moved, else 1
        flat = np.ascontiguousarray(rows).reshape(-1)
        steps = (*(stride * width * flat.itemsize for stride in self.strides), flat.itemsize)
        ordered = np.lib.stride_tricks.as_strided(flat, (*self.shape, width), steps, writeable=False)
        return np.ascontiguousarray(ordered).reshape(rows.shape)


def straightened(tensor: Tensor) -> tuple[Tensor, tuple[Straighten, ...]]:
    """A tensor in its plain encoding, and the step that brings its elements into order where that is needed."""
    encoding = tensor.encoding
    if not isinstance(encoding, Strided):
        return tensor, ()
    return replace(tensor, encoding=encoding.base), (Straighten(encoding.shape, encoding.strides),)


def contiguous(shape: Shape) -> Shape:
    """The strides, in elements, of a tensor that lies in the order of its shape."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


def extent(shape: Shape, strides: Shape) -> int:
    """Elements from the first to the last one that the tensor touches."""
    return 0 if 0 in shape else 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def is_contiguous(shape: Shape, strides: Shape) -> bool:
    """Axes of size 1 may have any stride."""
    usual = contiguous(shape)
    return 0 in shape or all(size == 1 or a == b for size, a, b in zip(shape, strides, usual, strict=True))


def is_permuted(shape: Shape, strides: Shape) -> bool:
    """Whether every element of the extent is touched exactly once."""
    step = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size != 1):
        if stride != step:
            return False
        step *= size
    return True


def bytes_of(dtype: str, count: int) -> int:
    """Bytes of `count` elements that fill whole bytes."""
    return count * BITS[dtype] // 8
