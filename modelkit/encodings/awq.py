"""The 4-bit integer groups of AWQ (AutoAWQ, llm-awq): an f16 scale and a zero for each group.

    version    part            dtype                of a weight [O, I] named PREFIX.weight, G groups in a row
    gemm       PREFIX.qweight  i32[I, O / 8]        along O: nibble k of a word is row 0 2 4 6 1 3 5 7 [k] of its eight
               PREFIX.qzeros   i32[G, O / 8]        the same
               PREFIX.scales   f16[G, O]
    gemv       PREFIX.qweight  i32[O, I / 8]        along I: nibble k is column k of its eight
               PREFIX.qzeros   i32[O, Z]            the same; rows are filled up to Z words
               PREFIX.scales   f16[O, 8 Z]
    gemv_fast  PREFIX.qweight  i16[O / 4, I]        tiles of 4 rows and 64 columns, 32 columns of a row shuffled
               PREFIX.qzeros   f16[8 Z, O]          -(scale * zero)
               PREFIX.scales   f16[8 Z, O]
                                                    value = (code - zero) * scale

Written is gemm. Z is G / 8 rounded up, to an even number for groups of 64 and to a multiple of 4 for smaller ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from modelkit.encodings import _awq_packing, _bits, _codes, _grouped
from modelkit.encodings._grouped import groups_of, stem
from modelkit.encodings._parameters import BITS, GROUP, METHOD, SCALES, SYMMETRIC, Parameter, configured, named
from modelkit.errors import BrokenFile, Unsupported
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, Part, matrix

if TYPE_CHECKING:
    from modelkit.encodings._fitting import Method
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

Version = Literal["gemm", "gemv", "gemv_fast"]
VERSIONS: Mapping[str, Version] = {"gemm": "gemm", "gemv": "gemv", "gemv_fast": "gemv_fast"}
MIDDLE = 8
NEARLY = 2.0**-9
"""By how much of itself a stored scale * zero may be off: it is rounded to f16, perhaps from a rounded product."""
TABLE = (
    BITS,
    GROUP,
    Parameter("scale", "scale", SCALES),
    Parameter("symmetric", "offset", SYMMETRIC),
    Parameter("version", "version", VERSIONS),
    METHOD,
)


@dataclass(frozen=True, slots=True)
class Awq:
    """`group` 0 = the whole row. Zeros are stored where all are 8 ("middle") too."""

    bits: int = 4
    group: int = 128
    scale: str = "F16"
    offset: Literal["middle", "integer"] = "middle"
    version: Version = "gemm"
    method: Method = field(default="mse", compare=False)
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "awq"

    @property
    def name(self) -> str:
        return named("awq", self, TABLE)

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.scale, self.offset)

    def configured(self, words: Mapping[str, str]) -> Awq:
        return configured(self, words, TABLE)

    def unit(self, shape: Shape) -> int:
        return shape[-1] if self.version == "gemv" else prod(shape)

    def misfit(self, shape: Shape) -> str | None:
        if self.bits != 4:
            return f"AWQ holds 4 bits only, not {self.bits}"
        if len(shape) != 2:
            return f"AWQ holds matrices, not {len(shape)} axes"
        rows, columns = {"gemm": (8, 1), "gemv": (1, 8), "gemv_fast": (4, 64)}[self.version]
        if shape[0] % rows or shape[1] % columns:
            return f"AWQ packs {rows} x {columns} codes at a time; {shape[0]:,} x {shape[1]:,} are no multiples of that"
        return _grouped.odd_group(shape[1], self.group)

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        rows, columns = matrix(shape)
        module, groups = stem(name), groups_of(columns, self.group)
        filled = 8 * self._zero_words(columns)
        kinds = {
            "gemm": (("I32", (columns, rows // 8)), ("I32", (groups, rows // 8)), (self.scale, (groups, rows))),
            "gemv": (("I32", (rows, columns // 8)), ("I32", (rows, filled // 8)), (self.scale, (rows, filled))),
            "gemv_fast": (("I16", (rows // 4, columns)), (self.scale, (filled, rows)), (self.scale, (filled, rows))),
        }[self.version]
        names = (f"{module}.qweight", f"{module}.qzeros", f"{module}.scales")
        return tuple(Part(part, dtype, found) for part, (dtype, found) in zip(names, kinds, strict=True))

    def _zero_words(self, columns: int) -> int:
        group = self.group or columns
        step = 1 if group >= 128 else 2 if group >= 64 else 4
        return -(-groups_of(columns, self.group) // (8 * step)) * step

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        self._refuse_writing()
        return _grouped.pack(self, values, importance, self.method)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """Raises BrokenFile for zeros that contradict the grid."""
        codes = self._unpacked(parts[0], shape, rows)
        groups = groups_of(shape[1], self.group)
        scales = self._floats(parts[2], shape, rows, groups)
        if self.version == "gemm":
            zeros = _awq_packing.across(parts[1].reshape(groups, -1), rows)
        elif self.version == "gemv":
            zeros = _bits.unpack(parts[1].reshape(shape[0], -1)[rows], 4, groups)
        else:
            zeros = _divided(self._floats(parts[1], shape, rows, groups), scales)
        if self.offset == "middle":
            fix = "set zero_point to true in the quantization config"
            _grouped.refuse_other_zeros(zeros, MIDDLE, "quantization-mismatch", fix)
        own = zeros.astype(np.int16) if self.offset == "integer" else None
        return Codes(self.grid, codes, scales, own)

    def _unpacked(self, stored: Array, shape: Shape, rows: slice) -> Array:
        """uint8 [row, column]."""
        if self.version == "gemm":
            return _awq_packing.across(stored.reshape(shape[1], -1), rows)
        if self.version == "gemv":
            return _bits.unpack(stored.reshape(shape[0], -1)[rows], 4, shape[1])
        return _awq_packing.tiles(stored, shape[1], rows)

    def _floats(self, stored: Array, shape: Shape, rows: slice, groups: int) -> F32:
        """Figures of groups, which lie along rows in gemv and across them else: float32 [row, group]."""
        if self.version == "gemv":
            run = stored.reshape(shape[0], -1, 2 if self.scale != "F32" else 4)[rows, :groups]  # (row, group, byte)
            return _grouped.floats(np.ascontiguousarray(run).reshape(-1), self.scale).reshape(run.shape[:2])
        filled = stored.reshape(-1, shape[0], 2 if self.scale != "F32" else 4)  # (group, row, byte)
        return _grouped.floats_across(filled[:groups].reshape(-1), self.scale, groups, rows)

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        self._refuse_writing()
        _awq_packing.put_across(codes.codes, parts[0].reshape(shape[1], -1), rows)
        groups = groups_of(shape[1], self.group)
        if codes.zeros is None:
            zeros = np.full((rows.stop - rows.start, groups), MIDDLE, np.uint8)
        else:
            zeros = _grouped.exact_zeros(codes.zeros, 4)
        _awq_packing.put_across(zeros, parts[1].reshape(groups, -1), rows)
        _grouped.exactly_across(codes.scales, parts[2], self.scale, rows)

    def holds(self, other: Encoding) -> bool:
        return self == other

    def adopt(self, grid: Grid, shape: Shape) -> Awq | str:
        """This encoding for codes of another grid as they are, or why there is none."""
        wrong = _grouped.same_numbers(grid, "AWQ")
        if wrong is not None:
            return wrong
        offset: Literal["middle", "integer"] = "middle" if grid.offset == "middle" else "integer"
        made = Awq(grid.bits, grid.group, "F16", offset, method=self.method)
        return made.misfit(shape) or made

    def _refuse_writing(self) -> None:
        if self.version != "gemm":
            raise Unsupported(f"{self.name} can be read but not written", "write the version gemm: awq")


def _divided(products: F32, scales: F32) -> Array:
    """The whole zeros behind stored -(scale * zero), int16. Raises BrokenFile where they are not whole."""
    with np.errstate(all="ignore"):
        zeros = np.nan_to_num(np.rint(-products / np.where(scales == 0, np.inf, scales)))
        off = ~(np.abs(products + zeros * scales) <= NEARLY * np.abs(products)) | (zeros < 0) | (zeros > 15)
    if off.any():
        where = tuple(int(axis[0]) for axis in np.nonzero(off))
        message = (
            f"a stored zero is {products[where]:g} with a scale of {scales[where]:g}, which is no multiple 0 to -15"
        )
        raise BrokenFile(message, "fetch the file again", rule="quantization-mismatch")
    return zeros.astype(np.int16)


encoding = Awq()
