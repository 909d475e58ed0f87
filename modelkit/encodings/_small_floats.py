"""Small floats in groups with scales, as four layouts store them: their names, their shapes, their codes.

The bytes of each are described where its layout is: `compressed_tensors.py` here, `layouts/fp8.py`,
`layouts/modelopt.py` and `layouts/mxfp4.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.encodings import _bits, _codes, _float_rounding, _grouped
from modelkit.encodings._grouped import exactly, floats, groups_of, stem
from modelkit.encodings._signed_bytes import one_of_all
from modelkit.errors import BadValue, BrokenFile, Unsupported
from modelkit.lazy import np
from modelkit.tensors import BITS, Codes, Grid, Number, Overall, Part, matrix

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape

WIDTH: Mapping[Number, int] = {"e2m1": 4, "e2m3": 6, "e4m3": 8}
FORMATS: Mapping[tuple[Number, str], str] = {
    ("e4m3", "E8M0"): "mxfp8-quantized",
    ("e2m3", "E8M0"): "mxfp6-pack-quantized",
    ("e2m1", "E8M0"): "mxfp4-pack-quantized",
    ("e2m1", "F8_E4M3"): "nvfp4-pack-quantized",
}
"""What compressed-tensors calls them; e4m3 with a float scale is float-quantized."""


@dataclass(frozen=True, slots=True)
class SmallFloats:
    """`group` 0: the whole row; `tile` 0: all rows, else the rows that share a scale; `layout`: whose names."""

    number: Number = "e4m3"
    group: int = 0
    tile: int = 1
    scale: str = "BF16"
    overall: Overall = "none"
    layout: str = "compressed_tensors"
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None

    @property
    def grid(self) -> Grid:
        return Grid(
            WIDTH[self.number], self.group, self.scale, number=self.number, tile=self.tile, overall=self.overall
        )

    @property
    def format(self) -> str:
        """What compressed-tensors calls it."""
        return FORMATS.get((self.number, self.scale), "float-quantized")

    @property
    def name(self) -> str:
        if self.layout in ("modelopt", "mxfp4") and self.number == "e2m1":
            return self.layout
        words = [f"format={self.format}"] if self.layout == "compressed_tensors" else []
        if self.number == "e4m3" and self.scale != "E8M0":
            words += [f"scale={self.scale.lower()}"] if self.scale != "BF16" else []
        if self.tile > 1:
            words += [f"block={self.tile}x{self.group}"]
        elif self.number == "e4m3" and self.scale != "E8M0":
            words += ["scales=tensor"] if self.tile == 0 else [f"group={self.group or 'row'}"]
        return f"{self.layout}:{','.join(words)}" if words else self.layout

    def unit(self, shape: Shape) -> int:
        """Rows of a tile; all values where the last tile is short or something is stored once for all of them."""
        rows, columns = matrix(shape)
        if self.tile == 0 or self.overall != "none" or rows % self.tile:
            return prod(shape)
        return self.tile * columns

    def misfit(self, shape: Shape) -> str | None:
        least = 3 if self.layout == "mxfp4" else 2
        if len(shape) < 2 or (len(shape) > 2 and least == 2):
            return f"{len(shape)} dimensions; a matrix is wanted"
        if 0 in shape:
            return "it has no values"
        if self.tile == 1:
            return _grouped.odd_group(shape[-1], self.group, ())
        return None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        rows, columns = matrix(shape)
        groups = groups_of(columns, self.group)
        if self.layout == "mxfp4":
            stacked = (*shape[:-1], groups)
            return Part(f"{name}_blocks", "U8", (*stacked, 16)), Part(f"{name}_scales", "U8", stacked)
        module, one = stem(name), self.tile == 0
        high = 1 if one else -(-rows // self.tile)
        scale = Part(
            f"{module}.{self._scale_name}",
            self._scale_dtype,
            (1,) if one else (high, groups),
            whole=one,
        )
        if self.number == "e4m3":
            return Part(f"{module}.weight", "F8_E4M3", (rows, columns)), scale
        codes = "weight" if self.layout == "modelopt" else "weight_packed"
        packed = Part(f"{module}.{codes}", "U8", (rows, self._width(columns)))
        if self.overall == "none":
            return packed, scale
        last = "weight_scale_2" if self.overall == "factor" else "weight_global_scale"
        return packed, scale, Part(f"{module}.{last}", "F32", (1,), whole=True)

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {}

    def configured(self, words: Mapping[str, str]) -> Encoding:
        """As `compressed_tensors:WORDS`; raises BadRequest."""
        from modelkit.encodings._ct_integers import Integers

        return Integers().configured({"format": self.format, **words})

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        self._refuse_writing()
        parts = tuple(np.zeros(part.size, np.uint8) for part in self.parts("weight", values.shape))
        rows, columns = matrix(values.shape)
        found = _float_rounding.quantised(np.ascontiguousarray(values).reshape(rows, columns), self.grid)
        self.place(found, parts, values.shape, slice(0, rows))
        return parts

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        height, columns = matrix(shape)
        codes = _bits.unpack(parts[0].reshape(height, self._width(columns))[rows], WIDTH[self.number], columns)
        stored = floats(parts[1], self._scale_kind).reshape(-1, groups_of(columns, self.group))
        which = np.zeros(len(codes), np.int64) if self.tile == 0 else np.arange(rows.start, rows.stop) // self.tile
        scales = stored[rows] if self.tile == 1 else stored[which]
        overall = 1.0 if self.overall == "none" else usable(float(parts[2].view("<f4")[0]), self.overall)
        if self.overall == "divisor":
            return Codes(self.grid, codes, scales, divisor=overall)
        return Codes(self.grid, codes, scales, factor=overall)

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        self._refuse_writing()
        height, columns = matrix(shape)
        parts[0].reshape(height, self._width(columns))[rows] = _bits.pack(codes.codes, WIDTH[self.number], 8)
        scales, first, last = codes.scales, rows.start, rows.stop
        if self.tile == 0:
            scales, first, last = one_of_all(scales), 0, 1
        elif self.tile > 1:
            scales, first, last = _of_tiles(scales, rows, self.tile)
        size = groups_of(columns, self.group) * BITS[self._scale_dtype] // 8
        parts[1].reshape(-1, size)[first:last] = exactly(scales, self._scale_kind).reshape(len(scales), -1)
        if self.overall != "none":
            one = codes.divisor if self.overall == "divisor" else codes.factor
            parts[2][:] = exactly(np.array([one], np.float64).astype(np.float32), "F32").reshape(-1)

    def adopt(self, grid: Grid, shape: Shape) -> SmallFloats | str:
        """These codes as they are, where the layout has a form with their groups and scales."""
        if grid.number == "integer":
            return f"{self.format} holds small floats, not integers"
        group, scale = {"e2m1": (32, "E8M0"), "e2m3": (32, "E8M0"), "e4m3": (grid.group, grid.scale)}[grid.number]
        if grid.number == "e2m1" and grid.scale == "F8_E4M3":
            group, scale = 16, "F8_E4M3"
        if (grid.group, grid.scale) != (group, scale) or (scale == "E8M0" and (grid.group, grid.tile) != (32, 1)):
            return f"compressed-tensors has no {grid.number} in groups of {grid.group} with scales of {grid.scale}"
        overall: Overall = "divisor" if scale == "F8_E4M3" else "none"
        made = SmallFloats(grid.number, grid.group, grid.tile, grid.scale, overall)
        return made.misfit(shape) or made

    def holds(self, other: Encoding) -> bool:
        return self == other

    def _width(self, columns: int) -> int:
        """Bytes of the codes of a row."""
        return columns * WIDTH[self.number] // 8

    @property
    def _scale_name(self) -> str:
        return "weight_scale_inv" if self.layout == "fp8" and self.tile > 1 else "weight_scale"

    @property
    def _scale_dtype(self) -> str:
        return "U8" if self.scale == "E8M0" else self.scale

    @property
    def _scale_kind(self) -> str:
        return "F8_E8M0" if self.scale == "E8M0" else self.scale

    def _refuse_writing(self) -> None:
        if self.layout != "compressed_tensors":
            fix = "compressed-tensors holds the same codes: --to compressed-tensors"
            raise Unsupported(f"{self.name} is read, not written", fix)


def usable(overall: float, kind: Overall) -> float:
    """A scale of the whole tensor; raises BrokenFile for one that leaves no weights."""
    if overall == 0 or not np.isfinite(overall):
        what = "divides" if kind == "divisor" else "multiplies"
        raise BrokenFile(
            f"the scale that {what} the whole tensor is {overall:g}; a finite number other than 0 is expected",
            "fetch the file again",
            "scale-range" if overall == 0 else "nan-weights" if np.isnan(overall) else "infinite-weights",
        )
    return overall


def _of_tiles(scales: F32, rows: slice, tile: int) -> tuple[F32, int, int]:
    """(scales of tiles, first tile, tile after the last); raises BadValue where rows of a tile differ."""
    which = np.arange(rows.start, rows.stop) // tile
    first, last = rows.start // tile, -(-rows.stop // tile)
    firsts = np.searchsorted(which, np.arange(first, last))
    tops = scales[firsts]
    if (tops[which - first] != scales).any():
        raise BadValue("rows of one block have scales of their own; one scale for each block does not hold them")
    return tops, first, last
