"""The groups of HQQ (half-quadratic quantisation): codes of 1 to 8 bits with a scale and a float zero.

    part          dtype          of a weight [O, I] named PREFIX.weight
    PREFIX.W_q    u8 or i32      codes of the weight seen as [O * I / group, group] (axis 1) or [group, O * I / group]
                                 (axis 0), packed along the rows of that view: the first share of them in the HIGH bits
    PREFIX.scale  f16[n, 1]      (axis 0: [1, n])
    PREFIX.zero   the same       value = (code - zero) * scale
    PREFIX.*                     axis, group_size, nbits, packing, shape ...: one small array each

Bytes hold 8, 4, 2 or 1 bits; 3 bits lie ten in an i32, the first in bits 27 to 29. HQQ's own arithmetic rounds twice
to its compute dtype; the values here are the real ones, rounded once. Read only: a float zero fits no other layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.encodings import _grouped
from modelkit.encodings._grouped import stem
from modelkit.encodings._parameters import BITS, GROUP, SCALES, Parameter, configured, named
from modelkit.errors import Unsupported
from modelkit.lazy import np
from modelkit.tensors import Part

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

TABLE = (BITS, GROUP, Parameter("scale", "scale", SCALES), Parameter("axis", "axis", {"0": 0, "1": 1}))
SHARES = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}
"""Rows of the view that share a row of W_q, by the bits that are stored."""
Beside = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Hqq:
    """`bits` as stored; `group` 0 = the view is the weight itself; `beside`: (ending, dtype, shape) of small arrays."""

    bits: int = 4
    group: int = 64
    scale: str = "F16"
    axis: int = 1
    beside: Beside = ()
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "hqq"
    encode: ClassVar[None] = None  # read only

    @property
    def name(self) -> str:
        return named("hqq", self, TABLE)

    def configured(self, words: Mapping[str, str]) -> Hqq:
        return configured(self, words, TABLE)

    def unit(self, shape: Shape) -> int:
        return prod(shape)

    def view(self, shape: Shape) -> tuple[int, int]:
        """The rows and columns that the weight is seen as."""
        if not self.group:
            return prod(shape[:-1]), shape[-1]
        other = prod(shape) // self.group
        return (other, self.group) if self.axis == 1 else (self.group, other)

    def misfit(self, shape: Shape) -> str | None:
        if self.group and prod(shape) % self.group:
            return f"{prod(shape):,} values are no multiple of {self.group}"
        rows, share = self.view(shape)[0], SHARES[self.bits]
        return f"{rows:,} groups are no multiple of {share}" if self.bits != 3 and rows % share else None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        module, (rows, columns) = stem(name), self.view(shape)
        figures = (rows, 1) if self.axis == 1 else (1, columns)
        return (
            Part(f"{module}.W_q", "I32" if self.bits == 3 else "U8", (-(-rows // SHARES[self.bits]), columns)),
            Part(f"{module}.scale", self.scale, figures),
            Part(f"{module}.zero", self.scale, figures),
            *(Part(module + ending, dtype, found, whole=True) for ending, dtype, found in self.beside),
        )

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        raise Unsupported(f"{self.name} can be read but not written", "choose another layout for --to")

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        codes, scales, zeros = self.stored(parts, shape, rows)
        with np.errstate(all="ignore"):
            found: F32 = ((codes - zeros.astype(np.float64)) * scales).astype(np.float32)
        return found

    def stored(self, parts: Sequence[Array], shape: Shape, rows: slice) -> tuple[Array, F32, F32]:
        """Codes, scales and zeros of some rows, each [row, column]."""
        height, width = self.view(shape)
        first, last = rows.start * shape[-1], rows.stop * shape[-1]
        start, stop = first // width, -(-last // width)  # rows of the view
        codes = self._codes(parts[0], height, width, start, stop)
        figures = (_grouped.floats(part, self.scale) for part in parts[1:3])
        spread = (
            np.broadcast_to(one[start:stop, None] if self.axis == 1 else one, codes.shape).reshape(-1)
            for one in figures
        )
        cut = slice(first - start * width, last - start * width)
        scales, zeros = (one[cut].reshape(-1, shape[-1]) for one in spread)
        return codes.reshape(-1)[cut].reshape(-1, shape[-1]), scales, zeros

    def _codes(self, packed: Array, height: int, width: int, start: int, stop: int) -> Array:
        """Rows of the view: row r lies in row r % count of W_q, in its share r // count from the top."""
        share = SHARES[self.bits]
        words = packed.view("<i4" if self.bits == 3 else np.uint8).reshape(-1, width)
        count = -(-height // share)
        which = np.arange(start, stop)
        top = 27 if self.bits == 3 else 8 - self.bits
        shifts = (top - self.bits * (which // max(count, 1))).astype(words.dtype)[:, None]
        found: Array = (words[which % max(count, 1)] >> shifts) & words.dtype.type(2**self.bits - 1)
        return found.astype(np.uint8)

    def holds(self, other: Encoding) -> bool:
        return self == other


encoding = Hqq()
