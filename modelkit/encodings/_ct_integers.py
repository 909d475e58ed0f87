"""Integer codes as compressed-tensors stores them: packed into words, or a byte for each.

The bytes are described in `compressed_tensors.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.encodings import _bits, _codes, _fitting, _padded_bits, _zeros_down
from modelkit.encodings._scales import narrowed, widened
from modelkit.errors import BadValue, BrokenFile, Unsupported
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, Part

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Offset, Shape


@dataclass(frozen=True, slots=True)
class Integers:
    """`group` 0: a scale for each row, and with `tile` 0 for the whole tensor. `packed`: into words, else int8.

    `padded`: the packing until May 2026, which is read only; so is `mapped`: a g_idx says the group of a column.
    """

    bits: int = 4
    group: int = 128
    tile: int = 1
    symmetric: bool = True
    scale: str = "F16"
    packed: bool = True
    padded: bool = False
    mapped: bool = False
    method: str = "rtn"
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "compressed_tensors"

    @property
    def format(self) -> str:
        """What compressed-tensors calls it."""
        return "pack-quantized" if self.packed else "int-quantized"

    @property
    def grid(self) -> Grid:
        offset: Offset = "middle" if self.symmetric else "integer"
        return Grid(self.bits, self.group, self.scale, offset, mapped=self.mapped, tile=self.tile)

    @property
    def name(self) -> str:
        group = self.group or ("channel" if self.tile else "tensor")
        words = [] if self.packed else [f"format={self.format}"]
        words += [f"bits={self.bits}", f"group={group}"]
        words += [] if self.symmetric else ["symmetric=no"]
        words += [] if self.scale == "F16" else [f"scale={self.scale.lower()}"]
        words += [] if self.method == "rtn" else [f"method={self.method}"]
        words += ["packing=padded"] * self.padded + ["order=mapped"] * self.mapped
        return f"compressed_tensors:{','.join(words)}"

    def configured(self, words: Mapping[str, str]) -> Encoding:
        """The encoding of `compressed_tensors:WORDS`, in any of its formats; raises BadRequest."""
        from modelkit.encodings._ct_words import configured

        return configured(words)

    def unit(self, shape: Shape) -> int:
        """Rows whose zeros fill whole words; all values where the last word is not full, or one scale is for all."""
        rows, columns = shape
        if self.tile == 0:
            return prod(shape)
        if self.symmetric or not self.packed:
            return columns
        step = 32 // self.bits if self.padded else 32 // gcd(self.bits, 32)
        return prod(shape) if rows % step else step * columns

    def misfit(self, shape: Shape) -> str | None:
        if len(shape) != 2:
            return f"{len(shape)} dimensions; a matrix is wanted"
        if 0 in shape:
            return "it has no values"
        if self.group and shape[1] % self.group:
            fitting = [str(size) for size in (256, 128, 64, 32, 16) if shape[1] % size == 0]
            instead = f"; {' or '.join(fitting)} would do" if fitting else ""
            return f"a row of {shape[1]:,} is no multiple of {self.group}{instead}"
        return None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        stem, (rows, columns) = stem_of(name), shape
        groups = self._groups(columns)
        one = self.tile == 0
        scale = Part(f"{stem}weight_scale", self.scale, (1,) if one else (rows, groups), whole=one)
        zero: tuple[Part, ...] = ()
        if not self.packed:
            if not self.symmetric:
                zero = (Part(f"{stem}weight_zero_point", "I8", scale.shape, whole=one),)
            return Part(f"{stem}weight", "I8", shape), scale, *zero
        codes = Part(f"{stem}weight_packed", "I32", (rows, self._words(columns)))
        if not self.symmetric:
            if one:  # one zero for all is not packed
                zero = (Part(f"{stem}weight_zero_point", "I8", (1,), whole=True),)
            else:
                zero = (Part(f"{stem}weight_zero_point", "I32", (self._words(rows), groups)),)
        order = (Part(f"{stem}weight_g_idx", "I32", (columns,), whole=True),) if self.mapped else ()
        return codes, scale, Part(f"{stem}weight_shape", "I64", (2,), whole=True), *zero, *order

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {f"{stem_of(name)}weight_shape": struct.pack("<2q", *shape)} if self.packed else {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        shape = values.shape
        wanted = self.parts("", shape)
        made = tuple(np.zeros(part.size, np.uint8) for part in wanted)
        for part, array in zip(wanted, made, strict=True):
            literal = self.constants("", shape).get(part.name)
            if literal is not None:
                array[:] = np.frombuffer(literal, np.uint8)
        codes = _fitting.fit(values, self.grid, self.method, importance)
        self.place(codes, made, shape, slice(0, shape[0]))
        return made

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return self.values(parts, shape, slice(0, shape[0]))

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        columns = shape[1]
        stored = parts[0].reshape(shape[0], -1)[rows]
        if self.packed:
            read = _padded_bits.unpack if self.padded else _bits.unpack
            codes = read(stored, self.bits, columns)
        else:
            codes = self._shifted(stored)
        count = len(codes)
        scales = widened(parts[1], self.scale).reshape(-1, self._groups(columns))
        scales = np.repeat(scales, count, axis=0) if self.tile == 0 else scales[rows]
        zeros = None if self.symmetric else self._zeros(parts[3 if self.packed else 2], shape, rows)
        return Codes(self.grid, codes, scales, zeros, groups=self._map(parts, columns))

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        if self.padded or self.mapped:
            raise Unsupported(f"{self.name} is read but not written", "leave out packing and order")
        columns, middle = shape[1], 2 ** (self.bits - 1)
        stored = parts[0].reshape(shape[0], -1)
        stored[rows] = _bits.pack(codes.codes, self.bits) if self.packed else codes.codes - np.uint8(middle)
        scales = one_of_all(codes.scales) if self.tile == 0 else codes.scales
        whole = parts[1].reshape(1 if self.tile == 0 else shape[0], -1)
        whole[slice(0, 1) if self.tile == 0 else rows] = narrowed(scales, self.scale).reshape(len(scales), -1)
        if codes.zeros is None:
            return
        zeros = parts[3 if self.packed else 2]
        if self.tile == 0:
            zeros[:] = (one_of_all(codes.zeros) - middle).astype(np.int8).view(np.uint8).reshape(-1)
        elif not self.packed:
            signed = (codes.zeros - middle).astype(np.int8).view(np.uint8)
            zeros.reshape(shape[0], -1)[rows] = signed
        else:
            _zeros_down.write(zeros.reshape(-1, self._groups(columns), 4), self.bits, shape[0], rows, codes.zeros)

    def adopt(self, grid: Grid, shape: Shape) -> Integers | str:
        """These codes packed as they are, whatever their bits and group."""
        if grid.number != "integer":
            return f"{self.format} holds integers, not {grid.number}"
        if grid.mapped:
            return "compressed-tensors no longer loads a map of columns (act-order)"
        if not self.packed and grid.bits != 8:
            return "int-quantized holds 8 bits only"
        if grid.tile > 1:
            return f"{self.format} has no groups of several rows"
        made = Integers(grid.bits, grid.group, grid.tile, grid.offset == "middle", grid.scale, self.packed)
        return made.misfit(shape) or made

    def holds(self, other: Encoding) -> bool:
        return self == other

    def _groups(self, columns: int) -> int:
        return columns // self.group if self.group else 1

    def _words(self, count: int) -> int:
        return _padded_bits.words(count, self.bits) if self.padded else _bits.words(count, self.bits)

    def _shifted(self, stored: Array) -> Array:
        """Signed bytes -> codes from 0; raises BrokenFile for bytes that `bits` bits do not reach."""
        middle = 2 ** (self.bits - 1)
        codes: Array = stored + np.uint8(middle)  # modulo 256: -middle becomes 0
        if self.bits < 8 and codes.size and codes.max() >= 2**self.bits:
            found = int(stored.view(np.int8)[codes >= 2**self.bits][0])
            raise BrokenFile(
                f"a code of {self.bits} bits is {found}; -{middle} to {middle - 1} are allowed",
                "the config's num_bits does not belong to these weights: fetch both again",
            )
        return codes

    def _zeros(self, stored: Array, shape: Shape, rows: slice) -> Array:
        """int16 [row, group] in the numbering of codes."""
        middle, groups = 2 ** (self.bits - 1), self._groups(shape[1])
        if self.tile == 0:
            one: Array = stored.view(np.int8).astype(np.int16) + middle
            return np.repeat(one, rows.stop - rows.start).reshape(-1, 1)
        if not self.packed:
            return stored.view(np.int8).reshape(shape[0], groups)[rows].astype(np.int16) + middle
        return _zeros_down.read(stored.reshape(-1, groups, 4), self.bits, shape[0], rows, padded=self.padded)

    def _map(self, parts: Sequence[Array], columns: int) -> Array | None:
        if not self.mapped:
            return None
        groups: Array = parts[-1].view("<i4")
        if groups.min(initial=0) < 0 or groups.max(initial=0) >= self._groups(columns):
            found = int(groups.max()) if groups.max() >= self._groups(columns) else int(groups.min())
            fix = "fetch the file again"
            raise BrokenFile(f"weight_g_idx names group {found}; there are {self._groups(columns):,}", fix)
        found_groups: Array = groups.astype(np.int32)
        return found_groups


def stem_of(name: str) -> str:
    """What a weight's companions begin with: `a.weight` has `a.weight_scale`."""
    return name.removesuffix("weight") if name == "weight" or name.endswith(".weight") else f"{name}."


def one_of_all(of_rows: Array) -> Array:
    """The figure that all rows share: [row, 1] -> [1, 1]; raises BadValue where they do not."""
    if len(of_rows) and (of_rows != of_rows[:1]).any():
        raise BadValue("rows of one tensor have scales of their own; one scale for all does not hold them")
    return of_rows[:1]
