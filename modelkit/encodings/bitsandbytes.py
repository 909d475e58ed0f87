"""The weights of bitsandbytes: 4-bit codes of a table of 16 floats (nf4, fp4) in flat blocks, or int8 rows.

    part                             dtype          of a weight of n values named NAME (PREFIX.weight)
    NAME                             u8[n / 2, 1]   codes, flat over all rows: the first of two in the HIGH half
    NAME.absmax                      f32[n / block] or u8, nested: codes of nested_quant_map
    NAME.quant_map                   f32[16]        value = quant_map[code] * absmax
    NAME.nested_absmax               f32[n / block / nested]
    NAME.nested_quant_map            f32[256]       absmax = nested_quant_map[code] * nested_absmax + offset, in float32
    NAME.quant_state.bitsandbytes__* u8             JSON: quant_type, blocksize, shape, nested_blocksize, nested_offset

    int8: NAME i8[O, I], PREFIX.SCB f32[O] (largest magnitude of a row)
                                                    value = code * SCB * float32(1 / 127), in this order

Read only: no other layout has these codes. Blocks may straddle rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from modelkit.encodings import _grouped
from modelkit.encodings._grouped import stem
from modelkit.encodings._parameters import Parameter, configured, named
from modelkit.errors import Unsupported
from modelkit.lazy import np
from modelkit.tensors import BITS, Part, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

Code = Literal["nf4", "fp4", "int8"]
CODES: Mapping[str, Code] = {"nf4": "nf4", "fp4": "fp4", "int8": "int8"}
TABLE = (Parameter("code", "code", CODES, shown=True), Parameter("block", "block"), Parameter("nested", "nested"))
Beside = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Arrays that belong to the weight and are not needed to decode it: (ending after the module, dtype, shape)."""


@dataclass(frozen=True, slots=True)
class Bitsandbytes:
    """`block`: values of an absmax; `nested`: absmax codes of a nested one, 0 = absmax are floats."""

    code: Code = "nf4"
    block: int = 64
    nested: int = 0
    offset: float = 0.0
    stored: str = "U8"  # the dtype in which the bytes of 4-bit codes are kept
    beside: Beside = ()
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "bitsandbytes"
    encode: ClassVar[None] = None  # read only

    @property
    def name(self) -> str:
        return "bitsandbytes:code=int8" if self.code == "int8" else named("bitsandbytes", self, TABLE)

    def configured(self, words: Mapping[str, str]) -> Bitsandbytes:
        return configured(self, words, TABLE)

    def unit(self, shape: Shape) -> int:
        return shape[-1] if self.code == "int8" else prod(shape)

    def misfit(self, shape: Shape) -> str | None:
        return None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        module, count = stem(name), prod(shape)
        beside = (Part(module + ending, dtype, found, whole=True) for ending, dtype, found in self.beside)
        if self.code == "int8":
            rows, columns = matrix(shape)
            return Part(name, "I8", (rows, columns)), Part(f"{module}.SCB", "F32", (rows,)), *beside
        fills = BITS[self.stored] // 4  # codes in an element
        blocks = -(-count // self.block)
        found = [
            Part(name, self.stored, (-(-count // fills), 1)),
            Part(f"{name}.absmax", "U8" if self.nested else "F32", (blocks,)),
            Part(f"{name}.quant_map", "F32", (16,), whole=True),
        ]
        if self.nested:
            found.append(Part(f"{name}.nested_absmax", "F32", (-(-blocks // self.nested),)))
            found.append(Part(f"{name}.nested_quant_map", "F32", (256,), whole=True))
        return *found, *beside

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        raise Unsupported(f"{self.name} can be read but not written", "choose another layout for --to")

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        columns = shape[-1]
        if self.code == "int8":
            codes = parts[0].view(np.int8).reshape(-1, columns)[rows].astype(np.float32)
            with np.errstate(all="ignore"):
                found: F32 = codes * parts[1].view("<f4").astype(np.float32)[rows, None] * np.float32(1 / 127)
            return found
        return self._of_table(parts, rows.start * columns, rows.stop * columns).reshape(-1, columns)

    def _of_table(self, parts: Sequence[Array], first: int, last: int) -> F32:
        """The values `first` to `last` of the flat tensor."""
        run = parts[0][first // 2 : -(-last // 2)]
        codes = np.stack([run >> 4, run & 15], axis=1).reshape(-1)[first % 2 :][: last - first]
        start, stop = first // self.block, -(-last // self.block)
        with np.errstate(all="ignore"):
            largest = np.repeat(self._absmax(parts, start, stop), self.block)[first - start * self.block :]
            table = parts[2].view("<f4").astype(np.float32)
            found: F32 = table[codes] * largest[: last - first]
        return found

    def _absmax(self, parts: Sequence[Array], start: int, stop: int) -> F32:
        """The largest magnitudes of some blocks; nested ones are rounded after the product and after the sum."""
        if not self.nested:
            plain: F32 = parts[1].view("<f4")[start:stop].astype(np.float32)
            return plain
        outer, table = (parts[place].view("<f4").astype(np.float32) for place in (3, 4))
        products = table[parts[1][start:stop]] * outer[np.arange(start, stop) // self.nested]
        found: F32 = products + np.float32(self.offset)
        return found

    def holds(self, other: Encoding) -> bool:
        return self == other


def with_beside(encoding: Bitsandbytes, parts: Sequence[Part], module: str) -> Bitsandbytes:
    """The encoding of a weight that has these arrays beside it."""
    return replace(encoding, beside=tuple((one.name.removeprefix(module), one.dtype, one.shape) for one in parts))


encoding = Bitsandbytes()
