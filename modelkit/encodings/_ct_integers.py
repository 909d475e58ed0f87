"""Integer codes as compressed-tensors stores them: packed into words, or a byte for each.

The bytes are described in `compressed_tensors.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.encodings import _bits, _codes, _ct_floats, _grouped, _padded_bits, _zeros_down
from modelkit.encodings._fitting import fit
from modelkit.encodings._grouped import exact_zeros, exactly, floats, groups_of, stem
from modelkit.encodings._parameters import BITS, GROUP, METHOD, SCALES, SYMMETRIC, Parameter, configured, named
from modelkit.encodings._signed_bytes import from_signed, one_of_all
from modelkit.encodings._small_floats import SmallFloats
from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.lazy import np
from modelkit.tensors import BITS as BITS_OF
from modelkit.tensors import Codes, Grid, Offset, Part, matrix

if TYPE_CHECKING:
    from modelkit.encodings._fitting import Method
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

FLOAT_FORMATS = (
    "float-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
YES_NO: Mapping[str, bool] = {"no": False, "yes": True}
TABLE = (
    Parameter("format", "packed", {"pack-quantized": True, "int-quantized": False}),  # and those of floats
    BITS,
    GROUP,
    Parameter("scale", "scale", SCALES),
    Parameter("scales", "tile", {"row": 1, "tensor": 0}),
    Parameter("symmetric", "offset", SYMMETRIC),
    Parameter("padded", "padded", YES_NO),
    Parameter("mapped", "mapped", YES_NO),
    METHOD,
)


@dataclass(frozen=True, slots=True)
class Integers:
    """`group` 0: a scale for each row, and with `tile` 0 for the whole tensor. `packed`: into words, else int8.

    `padded`: the packing until May 2026, which is read only; so is `mapped`: a g_idx says the group of a column.
    `scale_asked`: the dtype of scales was typed, and the model's own does not take its place.
    """

    bits: int = 4
    group: int = 128
    tile: int = 1
    offset: Offset = "middle"
    scale: str = "F16"
    packed: bool = True
    padded: bool = False
    mapped: bool = False
    method: Method = field(default="mse", compare=False)
    scale_asked: bool = field(default=False, compare=False)
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "compressed_tensors"

    @property
    def name(self) -> str:
        return named("compressed_tensors", self, TABLE)

    @property
    def format(self) -> str:
        """What compressed-tensors calls it."""
        return "pack-quantized" if self.packed else "int-quantized"

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.scale, self.offset, mapped=self.mapped, tile=self.tile)

    def configured(self, words: Mapping[str, str]) -> Encoding:
        """int-quantized is 8 bits and a scale for each row where nothing else is said."""
        if words.get("format") in FLOAT_FORMATS:
            return _ct_floats.configured(words)
        if words.get("format", "pack-quantized") not in ("pack-quantized", "int-quantized"):
            known = ", ".join(("pack-quantized", "int-quantized", *FLOAT_FORMATS))
            raise BadRequest(f"format={words['format']} is not written", f"written are: {known}")
        start = Integers(8, 0, packed=False) if words.get("format") == "int-quantized" else self
        made = configured(start, words, TABLE)
        if made.tile == 0 and "group" not in words:
            made = replace(made, group=0)
        made = replace(made, scale_asked=self.scale_asked or "scale" in words)
        if not made.packed and made.bits != 8:
            raise BadRequest(f"int-quantized has 8 bits, not {made.bits}", "leave out format: fewer are packed")
        if made.bits > 8 or (made.tile == 0 and made.group):
            why = f"bits={made.bits}: 1 to 8 are stored" if made.bits > 8 else "scales=tensor leaves no groups"
            raise BadRequest(why)
        return made

    def unit(self, shape: Shape) -> int:
        """Rows whose zeros fill whole words; all values where the last word is not full, or one scale is for all."""
        rows, columns = matrix(shape)
        if self.tile == 0:
            return prod(shape)
        if self.offset == "middle" or not self.packed:
            return columns
        step = 32 // self.bits if self.padded else 32 // gcd(self.bits, 32)
        return prod(shape) if rows % step else step * columns

    def misfit(self, shape: Shape) -> str | None:
        if len(shape) != 2:
            return f"{len(shape)} dimensions; a matrix is wanted"
        if 0 in shape:
            return "it has no values"
        return _grouped.odd_group(shape[1], self.group)

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        module, (rows, columns) = stem(name), matrix(shape)
        groups = groups_of(columns, self.group)
        one = self.tile == 0
        scale = Part(f"{module}.weight_scale", self.scale, (1,) if one else (rows, groups), whole=one)
        zero: tuple[Part, ...] = ()
        if not self.packed:
            if self.offset == "integer":
                zero = (Part(f"{module}.weight_zero_point", "I8", scale.shape, whole=one),)
            return Part(f"{module}.weight", "I8", shape), scale, *zero
        codes = Part(f"{module}.weight_packed", "I32", (rows, self._words(columns)))
        if self.offset == "integer":
            if one:  # one zero for all is not packed
                zero = (Part(f"{module}.weight_zero_point", "I8", (1,), whole=True),)
            else:
                zero = (Part(f"{module}.weight_zero_point", "I32", (self._words(rows), groups)),)
        order = (Part(f"{module}.weight_g_idx", "I32", (columns,), whole=True),) if self.mapped else ()
        return codes, scale, Part(f"{module}.weight_shape", "I64", (2,), whole=True), *zero, *order

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {f"{stem(name)}.weight_shape": struct.pack("<2q", *matrix(shape))} if self.packed else {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        self._refuse_writing()
        if self.tile:
            return _grouped.pack(self, values, importance, self.method)
        shape, row = values.shape, replace(self, tile=1).grid
        found = fit(np.ascontiguousarray(values).reshape(1, -1), row, self.method)
        parts = tuple(np.zeros(part.size, np.uint8) for part in self.parts("weight", shape))
        if self.packed:
            parts[2][:] = np.frombuffer(self.constants("weight", shape)["weight.weight_shape"], np.uint8)
        each = (None if one is None else np.repeat(one, shape[0], axis=0) for one in (found.scales, found.zeros))
        scales, zeros = each
        assert scales is not None  # noqa: S101 - every grid has scales
        self.place(Codes(self.grid, found.codes.reshape(shape), scales, zeros), parts, shape, slice(0, shape[0]))
        return parts

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        height, columns = matrix(shape)
        stored = parts[0].reshape(height, self._width(columns))[rows]
        if self.packed:
            read = _padded_bits.unpack if self.padded else _bits.unpack
            codes = read(stored, self.bits, columns)
        else:
            codes = from_signed(stored, self.bits)
        count = len(codes)
        scales = floats(parts[1], self.scale).reshape(-1, groups_of(columns, self.group))
        scales = np.repeat(scales, count, axis=0) if self.tile == 0 else scales[rows]
        zeros = (
            None if self.offset == "middle" else self._zeros(parts[3 if self.packed else 2], (height, columns), rows)
        )
        return Codes(self.grid, codes, scales, zeros, groups=self._map(parts, columns))

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        self._refuse_writing()
        (height, columns), middle = matrix(shape), 2 ** (self.bits - 1)
        stored = parts[0].reshape(height, self._width(columns))
        stored[rows] = _bits.pack(codes.codes, self.bits) if self.packed else codes.codes - np.uint8(middle)
        groups, scales = groups_of(columns, self.group), codes.scales
        if self.tile == 0:
            height, rows, scales = 1, slice(0, 1), one_of_all(scales)
        size = BITS_OF[self.scale] // 8
        parts[1].reshape(height, groups * size)[rows] = exactly(scales, self.scale).reshape(len(scales), -1)
        if codes.zeros is not None:
            self._place_zeros(codes.zeros, parts[3 if self.packed else 2], (height, groups), rows)

    def _place_zeros(self, zeros: Array, stored: Array, shape: tuple[int, int], rows: slice) -> None:
        """int16 [row, group] into stored zeros of `shape` rows and groups."""
        codes, middle = exact_zeros(zeros, self.bits), np.uint8(2 ** (self.bits - 1))
        if self.tile == 0:
            codes = one_of_all(codes)
        if self.packed and self.tile:
            _zeros_down.write(stored.reshape(-1, shape[1], 4), self.bits, shape[0], rows, codes)
        else:
            stored.reshape(shape)[rows] = codes - middle

    def adopt(self, grid: Grid, shape: Shape) -> Encoding | str:
        """These codes packed as they are, whatever their bits and group; small floats in the format that has them."""
        if grid.number != "integer":
            return SmallFloats().adopt(grid, shape)
        why = _grouped.same_numbers(replace(grid, tile=grid.tile or 1), "compressed-tensors")
        if why or (not self.packed and grid.bits != 8):
            return why or "int-quantized holds 8 bits only"
        offset: Offset = "middle" if grid.offset == "middle" else "integer"
        made = replace(self, bits=grid.bits, group=grid.group, tile=grid.tile, offset=offset, scale=grid.scale)
        made = replace(made, padded=False, mapped=False)
        return made.misfit(shape) or made

    def for_model_of(self, dtype: str) -> Integers:
        """For a model of this dtype, in which its engines hold scales too: bf16 for bf16, else f16, which f32 holds."""
        return self if self.scale_asked or dtype != "BF16" else replace(self, scale=dtype)

    def _refuse_writing(self) -> None:
        if self.padded or self.mapped:
            raise Unsupported(f"{self.name} is read, not written", "leave out padded and mapped")

    def holds(self, other: Encoding) -> bool:
        return self == other

    def _width(self, columns: int) -> int:
        """Bytes of the codes of a row."""
        return 4 * self._words(columns) if self.packed else columns

    def _words(self, count: int) -> int:
        return _padded_bits.words(count, self.bits) if self.padded else _bits.words(count, self.bits)

    def _zeros(self, stored: Array, shape: Shape, rows: slice) -> Array:
        """int16 [row, group] in the numbering of codes."""
        middle, groups = 2 ** (self.bits - 1), groups_of(shape[1], self.group)
        if self.tile == 0:
            one: Array = stored.view(np.int8).astype(np.int16) + middle
            return one.repeat(rows.stop - rows.start).reshape(-1, 1)
        if not self.packed:
            signed: Array = stored.view(np.int8).reshape(shape[0], groups)[rows].astype(np.int16)
            signed += np.int16(middle)
            return signed
        return _zeros_down.read(stored.reshape(-1, groups, 4), self.bits, shape[0], rows, padded=self.padded)

    def _map(self, parts: Sequence[Array], columns: int) -> Array | None:
        if not self.mapped:
            return None
        groups: Array = parts[-1].view("<i4")
        if groups.min(initial=0) < 0 or groups.max(initial=0) >= groups_of(columns, self.group):
            found = int(groups.max()) if groups.max() >= groups_of(columns, self.group) else int(groups.min())
            fix = "fetch the file again"
            raise BrokenFile(f"weight_g_idx names group {found}; there are {groups_of(columns, self.group):,}", fix)
        found_groups: Array = groups.astype(np.int32)
        return found_groups
