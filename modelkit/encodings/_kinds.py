"""The kinds of encoding: plain floats, blocks of bytes, and arrays carried without reading them.

A shelf file gives one of these its numbers and two functions; whatever follows from shapes is
computed here, without data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.encodings._slabs import MOST, out_of_range, refuse_beyond, slabs
from modelkit.errors import Unsupported
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import BITS, Part

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape


@dataclass(frozen=True, slots=True)
class Float:
    """One float a value. `exponent` and `mantissa` are their bits.

    `encode` turns float32 into the stored array, `decode` a stored uint8 array into float32.
    `limit` is the largest float32 that still rounds to a finite value (None: all do); values beyond
    are refused. `infinity` says whether the format has one.
    """

    name: str
    dtype: str
    exponent: int
    mantissa: int
    encode: Callable[[F32], Array]
    decode: Callable[[Array], F32]
    ggml: int | None = None
    limit: float | None = None
    infinity: bool = True
    kind: Kind = "float"

    def unit(self, shape: Shape) -> int:
        return 1

    def misfit(self, shape: Shape) -> str | None:
        return None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        return (Part(name, self.dtype, shape),)

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            if self.limit is None:
                return (self.encode(values),)
            flat = np.ascontiguousarray(values).reshape(-1)
            stored = np.empty(len(flat), self.encode(flat[:0]).dtype)
            extension = kernels.native() if self.name in kernels.FLOATS else None
            if extension is None:
                for run in slabs(len(flat)):
                    self._refuse_overflow(flat[run], self.limit, run.start)
                    stored[run] = self.encode(flat[run])
            else:
                largest, first = extension.scan(flat)
                if largest > self.limit or (first >= 0 and not self.infinity):
                    self._refuse_overflow(flat, self.limit, 0)
                extension.narrow(self.name, flat, stored)
        return (stored.reshape(values.shape),)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        extension = kernels.native() if self.name in kernels.FLOATS else None
        data = np.require(parts[0].reshape(-1), requirements=("C", "A"))
        if extension is None:
            with np.errstate(invalid="ignore"):
                return self.decode(data).reshape(shape)
        values = np.empty(shape, np.float32)
        extension.widen(self.name, data, values)
        return values

    def holds(self, other: Encoding) -> bool:
        if isinstance(other, Float):
            return self.exponent >= other.exponent and self.mantissa >= other.mantissa
        return other.kind == "quantised" and self.mantissa >= 23  # decoded values are float32 by definition

    def _refuse_overflow(self, values: F32, limit: float, first: int) -> None:
        if -limit <= values.min() and values.max() <= limit:
            return
        beyond = np.abs(values) > np.float32(limit)  # NaN compares false and stays NaN
        if self.infinity:
            beyond &= np.isfinite(values)
        if beyond.any():
            edge = self.encode(np.array([limit], np.float32)).view(np.uint8)
            raise out_of_range(values, beyond, f"{self.name} holds at most {self.decode(edge)[0]:g}", first)


@dataclass(frozen=True, slots=True)
class Block:
    """Every `values` numbers of a row become `bytes` bytes, independently of all others.

    `encode` turns float32 [blocks, values] into uint8 [blocks, bytes]; `decode` goes back.
    Either is None where modelkit cannot do it. `weighted` encodes float32 [rows, columns] by the
    importance of each column; None = importance changes nothing. `fields` are the places of the f16
    fields of a block: a value that makes one of them overflow is refused, because it would spoil its
    whole block.
    """

    name: str
    values: int
    bytes: int
    encode: Callable[[F32], Array] | None
    decode: Callable[[Array], F32] | None
    ggml: int | None = None
    dtype: str | None = None
    kind: Kind = "quantised"
    fields: tuple[int, ...] = ()
    weighted: Callable[[F32, F32], Array] | None = None

    def unit(self, shape: Shape) -> int:
        return self.values

    def misfit(self, shape: Shape) -> str | None:
        row = shape[-1] if shape else 1
        return f"a row of {row:,} is no multiple of {self.values}" if row % self.values else None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        return (Part(name, "U8", (*shape[:-1], shape[-1] // self.values * self.bytes)),)

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        if self.encode is None:
            raise Unsupported(f"{self.name} can be read but not written", "choose another encoding for --to")
        if importance is None or self.weighted is None:
            rows, importance = values.reshape(-1, self.values), None
        else:  # the weights of a value depend on its whole row
            rows = values.reshape(-1, len(importance))
        packed = np.empty((len(rows), rows.shape[1] // self.values * self.bytes), np.uint8)
        extension = kernels.native() if self.name in kernels.BLOCKS else None
        with np.errstate(all="ignore"):  # what overflows is either refused or meant
            if extension is None:
                self._encode_in_numpy(rows, importance, packed)
            elif rows.size:
                rows = np.ascontiguousarray(rows)
                largest, first = extension.scan(rows)
                if first >= 0 or largest > MOST:
                    refuse_beyond(rows.reshape(-1), self.name)
                extension.encode(self.name, rows, importance, packed)
                self._refuse_overflow(rows, packed, 0)
        return (packed.reshape(-1, self.bytes),)

    def _encode_in_numpy(self, rows: F32, importance: F32 | None, packed: Array) -> None:
        assert self.encode is not None  # noqa: S101 - pack looked
        for run in slabs(len(rows), rows.shape[1]):
            first = run.start * rows.shape[1]
            refuse_beyond(rows[run], self.name, first)
            weighted = importance is not None and self.weighted is not None
            blocks = self.weighted(rows[run], importance) if weighted else self.encode(rows[run])  # type: ignore[misc, arg-type]
            packed[run] = blocks.reshape(run.stop - run.start, -1)
            self._refuse_overflow(rows[run], packed[run], first)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        if self.decode is None:
            raise Unsupported(f"{self.name} can be carried but not decoded", "convert from another file of the model")
        blocks = parts[0].view(np.uint8).reshape(-1, self.bytes)  # (block, byte)
        values = np.empty((len(blocks), self.values), np.float32)
        extension = kernels.native() if self.name in kernels.BLOCKS else None
        if extension is not None:
            extension.decode(self.name, np.ascontiguousarray(blocks), values)
            return values.reshape(shape)
        with np.errstate(all="ignore"):  # a damaged scale may be infinite: 0 * infinity is NaN, not a fault here
            for run in slabs(len(blocks), self.values):
                values[run] = self.decode(blocks[run])
        return values.reshape(shape)

    def multiplies(self, shape: Shape) -> bool:
        return self.name in kernels.BLOCKS and self.misfit(shape) is None and kernels.native() is not None

    def multiply(self, parts: Sequence[Array], shape: Shape, vector: F32) -> F32:
        assert self.decode is not None  # noqa: S101 - multiplies looked
        return groups.multiply_blocks(self.name, parts[0].reshape(shape[0], -1), vector, self.decode)

    def holds(self, other: Encoding) -> bool:
        return self == other

    def _refuse_overflow(self, rows: F32, packed: Array, first: int) -> None:
        blocks, stored = rows.reshape(-1, self.values), packed.reshape(-1, self.bytes)
        for field in self.fields:
            lost = stored[:, field + 1] & 0x7C == 0x7C  # an f16 with all bits of its exponent: infinite or NaN
            if lost.any():
                block = int(lost.argmax())
                sizes = np.abs(blocks[block])
                why = f"too large for the f16 scales of {self.name}"
                raise out_of_range(blocks[block], sizes == sizes.max(), why, first + block * self.values)


@dataclass(frozen=True, slots=True)
class Raw:
    """Integers, bools and floats that modelkit has no arithmetic for: carried byte for byte."""

    dtype: str
    ggml: int | None = None
    kind: Kind = "raw"

    @property
    def name(self) -> str:
        return self.dtype.lower()

    def unit(self, shape: Shape) -> int:
        return 8 // BITS[self.dtype] if BITS[self.dtype] in (1, 2, 4) else (4 if BITS[self.dtype] == 6 else 1)

    def misfit(self, shape: Shape) -> str | None:
        bits = prod(shape) * BITS[self.dtype]
        return f"{prod(shape):,} values of {BITS[self.dtype]} bits do not fill whole bytes" if bits % 8 else None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        return (Part(name, self.dtype, shape),)

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        raise Unsupported(f"{self.dtype} is carried as it is; nothing can be converted into it")

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        raise Unsupported(f"{self.dtype} is carried as it is; it cannot be converted")

    def holds(self, other: Encoding) -> bool:
        return self == other


RAW: Mapping[str, Raw] = {
    raw.dtype: raw
    for raw in (
        Raw("I8", ggml=24), Raw("I16", ggml=25), Raw("I32", ggml=26), Raw("I64", ggml=27),
        Raw("U8"), Raw("U16"), Raw("U32"), Raw("U64"), Raw("BOOL"), Raw("C64"), Raw("F8_E8M0"),
        Raw("F8_E4M3FNUZ"), Raw("F8_E5M2FNUZ"), Raw("F6_E2M3"), Raw("F6_E3M2"), Raw("F4"),
    )
}  # fmt: skip
"""What is carried, by safetensors dtype."""
