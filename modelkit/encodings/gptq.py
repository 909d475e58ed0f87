"""The integer groups of GPTQ (AutoGPTQ, GPTQModel): codes of 2, 3, 4 or 8 bits, an f16 scale and a zero for each group.

    part           dtype                   of a weight [O, I] named PREFIX.weight, G groups in a row
    PREFIX.qweight i32[I * bits / 32, O]   codes, dense along I: code 0 in the lowest bits, some cross words
    PREFIX.qzeros  i32[G, O * bits / 32]   zeros, dense along O; version 1 stores zero - 1, version 2 the zero
    PREFIX.scales  f16[G, O]
    PREFIX.g_idx   i32[I]                  the group of each column, there even where it is i // group
                                           value = (code - zero) * scale

Symmetric weights have the zero 2**(bits - 1) everywhere. Version 1 is written, which every engine knows, or version 2
(`--to gptq:zeros=v2`), in plain order. A zero of 0 is 2**bits - 1 in version 1, and engines do not read that alike: as
0, as 2**bits (old exllama kernels), or with a carry into the next row's zero (GPTQModel 7.7 adds 1 to whole words). It
is said after writing; version 2 has no such doubt. Act-order (columns sorted by importance) and planes (`gptq_p`: 32
codes as planes of 4, 2 and 1 bits) are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from modelkit.encodings import _bits, _codes, _grouped
from modelkit.encodings._grouped import groups_of, stem
from modelkit.encodings._parameters import BITS, GROUP, METHOD, SCALES, SYMMETRIC, Parameter, configured, named
from modelkit.errors import BrokenFile, Unsupported
from modelkit.kernels import words
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, Part, matrix

if TYPE_CHECKING:
    from modelkit.encodings._fitting import Method
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

WIDTHS = (2, 3, 4, 8)
"""Bits that are stored dense and written; planes hold the others too."""
PLANES: Mapping[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""Widths of the planes of 32 codes, from the low bits to the high ones."""
YES_NO: Mapping[str, bool] = {"no": False, "yes": True}
TABLE = (
    BITS,
    GROUP,
    Parameter("scale", "scale", SCALES),
    Parameter("symmetric", "offset", SYMMETRIC),
    Parameter("zeros", "zeros", {"v1": "v1", "v2": "v2"}),
    Parameter("planar", "planar", YES_NO),
    Parameter("mapped", "mapped", YES_NO),
    METHOD,
)


@dataclass(frozen=True, slots=True)
class Gptq:
    """`group` 0 = the whole row; `zeros`: "v1" stores zero - 1; `mapped`: the stored g_idx counts (act-order)."""

    bits: int = 4
    group: int = 128
    scale: str = "F16"
    offset: Literal["middle", "integer"] = "middle"
    zeros: Literal["v1", "v2"] = "v1"
    planar: bool = False
    mapped: bool = False
    method: Method = field(default="mse", compare=False)
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "gptq"

    @property
    def name(self) -> str:
        return named("gptq", self, TABLE)

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.group, self.scale, self.offset, mapped=self.mapped)

    def configured(self, words: Mapping[str, str]) -> Gptq:
        return configured(self, words, TABLE)

    def unit(self, shape: Shape) -> int:
        return prod(shape)  # rows lie across all parts

    def misfit(self, shape: Shape) -> str | None:
        if self.bits not in (PLANES if self.planar else WIDTHS):
            return f"GPTQ holds 2, 3, 4 or 8 bits, not {self.bits}"
        if len(shape) != 2:
            return f"GPTQ holds matrices, not {len(shape)} axes"
        if shape[0] % 32 or shape[1] % 32:
            return f"GPTQ packs 32 rows and 32 columns at a time; {shape[0]:,} x {shape[1]:,} are no multiples of 32"
        return _grouped.odd_group(shape[1], self.group)

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        rows, columns = matrix(shape)
        groups, module = groups_of(columns, self.group), stem(name)
        return (
            Part(f"{module}.qweight", "I32", (self._words(columns), rows)),
            Part(f"{module}.qzeros", "I32", (groups, self._words(rows))),
            Part(f"{module}.scales", self.scale, (groups, rows)),
            Part(f"{module}.g_idx", "I32", (columns,), whole=True),
        )

    def _words(self, count: int) -> int:
        return -(-count // 32) * self.bits if self.planar else _bits.words(count, self.bits)

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        """The plain map of columns to groups."""
        if self.mapped:
            return {}
        return {f"{stem(name)}.g_idx": plain_map(shape[-1], self.group)}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        self._refuse_writing()
        return _grouped.pack(self, values, importance, self.method)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """Raises BrokenFile for zeros or a map that contradict the grid."""
        packed = words.turned(parts[0].view("<u4").reshape(-1, shape[0]), rows).view(np.uint8)  # (row, byte)
        read = from_planes if self.planar else _bits.unpack
        codes = read(packed, self.bits, shape[1])
        groups = groups_of(shape[1], self.group)
        scales = _grouped.floats_across(parts[2], self.scale, groups, rows)
        zeros = self._zeros(parts[1], shape, rows)  # (group, row)
        if self.offset == "middle":
            fix = "set sym to false in the quantization config, if that is how the model was made"
            _grouped.refuse_other_zeros(zeros, 2 ** (self.bits - 1), "gptq-zero-convention", fix)
        order = _map(parts[3], groups) if self.mapped else None
        own = np.ascontiguousarray(zeros.T).astype(np.int16) if self.offset == "integer" else None
        return Codes(self.grid, codes, scales, own, groups=order)

    def _zeros(self, stored: Array, shape: Shape, rows: slice) -> Array:
        """uint8 [group, row]; words hold the zeros of several rows, 32 rows fill whole words at any width."""
        packed = stored.reshape(groups_of(shape[1], self.group), -1)
        first = rows.start // 32
        run = np.ascontiguousarray(packed[:, first * 4 * self.bits : -(-rows.stop // 32) * 4 * self.bits])
        read = from_planes if self.planar else _bits.unpack
        fields = read(run, self.bits, rows.stop - first * 32)[:, rows.start - first * 32 :]
        if self.zeros == "v1":
            fields = (fields + np.uint8(1)) & np.uint8(2**self.bits - 1)  # the topmost field wraps to 0
        return fields

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        self._refuse_writing()
        packed = np.ascontiguousarray(_bits.pack(codes.codes, self.bits)).view("<u4")  # (row, word)
        words.put_turned(packed, parts[0].view("<u4").reshape(-1, shape[0]), rows)
        groups = groups_of(shape[1], self.group)
        _grouped.exactly_across(codes.scales, parts[2], self.scale, rows)
        if codes.zeros is None:
            fields = np.full((groups, rows.stop - rows.start), 2 ** (self.bits - 1), np.uint8)
        else:
            fields = _grouped.exact_zeros(codes.zeros, self.bits).T
        if self.zeros == "v1":
            fields = (fields - np.uint8(1)) & np.uint8(2**self.bits - 1)
        self._put_zeros(fields, parts[1].reshape(groups, -1), rows)

    def _put_zeros(self, fields: Array, packed: Array, rows: slice) -> None:
        """uint8 [group, row] among the zeros of the rows that share their words."""
        first = rows.start // 32 * 32
        start, stop = first // 8 * self.bits, -(-rows.stop // 32) * 4 * self.bits
        run = np.ascontiguousarray(packed[:, start:stop])
        beside = _bits.unpack(run, self.bits, run.shape[1] * 8 // self.bits).copy()
        beside[:, rows.start - first : rows.stop - first] = fields
        packed[:, start:stop] = _bits.pack(beside, self.bits)[:, : run.shape[1]]

    def holds(self, other: Encoding) -> bool:
        return self == other

    def adopt(self, grid: Grid, shape: Shape) -> Gptq | str:
        """This encoding for codes of another grid as they are, or why there is none."""
        wrong = _grouped.same_numbers(grid, "GPTQ")
        if wrong is not None:
            return wrong
        offset: Literal["middle", "integer"] = "middle" if grid.offset == "middle" else "integer"
        made = Gptq(grid.bits, grid.group, "F16", offset, self.zeros, method=self.method)
        return made.misfit(shape) or made

    def _refuse_writing(self) -> None:
        if self.planar or self.mapped:
            raise Unsupported(f"{self.name} can be read but not written", "write GPTQ in plain order: gptq")


def plain_map(columns: int, group: int) -> bytes:
    """The bytes of a g_idx that says i // group."""
    size = group or columns
    return b"".join(number.to_bytes(4, "little") * size for number in range(groups_of(columns, group)))[: 4 * columns]


def from_planes(packed: Array, bits: int, count: int) -> Array:
    """The first `count` codes of each row: uint8 [row, byte] -> uint8 [row, count]. 32 codes are `bits` words."""
    words = np.ascontiguousarray(packed).view("<u4").reshape(len(packed), -1, bits)  # (row, run, word)
    found = np.zeros((*words.shape[:2], 32), np.uint8)
    word = low = 0
    for width in PLANES[bits]:
        shifts = np.arange(0, 32, width, dtype=np.uint32)
        plane = (words[:, :, word : word + width, None] >> shifts) & np.uint32(2**width - 1)  # (row, run, word, code)
        found |= plane.reshape(found.shape).astype(np.uint8) << np.uint8(low)
        word, low = word + width, low + width
    return found.reshape(len(packed), -1)[:, :count]


def _map(stored: Array, groups: int) -> Array:
    """The group of each column, int32. Raises BrokenFile for one that is not there."""
    found = stored.view("<i4").astype(np.int32)
    if found.size and (found.min() < 0 or found.max() >= groups):
        wrong = int(found[(found < 0) | (found >= groups)][0])
        raise BrokenFile(
            f"g_idx names group {wrong:,}, but there are {groups:,}",
            "fetch the file again",
            rule="quantization-mismatch",
        )
    return found


encoding = Gptq()
