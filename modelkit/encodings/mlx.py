"""The quantised weights of MLX: integer groups with a scale and a bias, or small floats with a scale (modes).

    part           dtype                       of a weight [.., O, I] named PREFIX.weight, G groups in a row
    PREFIX.weight  u32[.., O, I * bits / 32]   codes, dense along I: code 0 in the lowest bits, some cross words
    PREFIX.scales  f16, bf16, f32[.., O, G]    may be negative
    PREFIX.biases  the same                    value = code * scale + bias

    mode    codes     scales            group
    affine  integers  floats            32, 64, 128
    mxfp4   e2m1      u8: 2**(u8-127)   32
    nvfp4   e2m1      u8: e4m3          16       value = code * scale, no biases
    mxfp8   e4m3      u8: 2**(u8-127)   32

A weight whose biases all are -2**(bits - 1) * scale is a symmetric one ("middle"): other layouts hold its codes too.
Its own arithmetic rounds twice, after the product and after the sum, in the dtype of the scales; the values here
are the real ones, rounded once. Written are 2, 3, 4, 5, 6 and 8 bits; 1 bit is read. Scales are written in the dtype of
config.json, as mlx-lm does (bf16 for a bf16 model, else f16), unless scale=f16, bf16 or f32 says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from modelkit.encodings import _bits, _codes, _grouped, _mlx_floats
from modelkit.encodings._grouped import groups_of, stem
from modelkit.encodings._parameters import BITS, GROUP, METHOD, SCALES, Parameter, configured, named
from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, Part, matrix

if TYPE_CHECKING:
    from modelkit.encodings._fitting import Method
    from modelkit.tensors import F32, Array, Encoding, Kind, Number, Shape

Mode = Literal["affine", "mxfp4", "nvfp4", "mxfp8"]
WIDTHS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)
SYMMETRIC: Mapping[str, str] = {"no": "float", "yes": "middle"}
TABLE = (BITS, GROUP, Parameter("scale", "scale", SCALES), Parameter("symmetric", "offset", SYMMETRIC), METHOD)
FLOATS: Mapping[str, tuple[Number, int, int, str]] = {
    "mxfp4": ("e2m1", 4, 32, "E8M0"),
    "nvfp4": ("e2m1", 4, 16, "F8_E4M3"),
    "mxfp8": ("e4m3", 8, 32, "E8M0"),
}
"""What a mode means: number, bits, group, scale."""


@dataclass(frozen=True, slots=True)
class Mlx:
    """`bits`, `group` and `scale` of modes other than affine are those of FLOATS.

    `scale_asked`: the dtype of scales was typed, and the model's own does not take its place.
    """

    bits: int = 4
    group: int = 64
    scale: str = "F16"
    mode: Mode = "affine"
    offset: Literal["float", "middle"] = "float"
    method: Method = field(default="mse", compare=False)
    scale_asked: bool = field(default=False, compare=False)
    kind: ClassVar[Kind] = "quantised"
    ggml: ClassVar[int | None] = None
    dtype: ClassVar[str | None] = None
    layout: ClassVar[str] = "mlx"

    @staticmethod
    def of_mode(mode: Mode) -> Mlx:
        """The encoding of a mode of small floats."""
        _, bits, group, scale = FLOATS[mode]
        return Mlx(bits, group, scale, mode)

    @property
    def name(self) -> str:
        return f"mlx:mode={self.mode}" if self.mode in FLOATS else named("mlx", self, TABLE)

    @property
    def grid(self) -> Grid:
        if self.mode in FLOATS:
            return Grid(self.bits, self.group, self.scale, number=FLOATS[self.mode][0])
        return Grid(self.bits, self.group, self.scale, self.offset)

    def configured(self, words: Mapping[str, str]) -> Mlx:
        """Raises BadRequest for parameters that there are none of, or that a mode does not leave open."""
        rest = {word: value for word, value in words.items() if word != "mode"}
        mode = words.get("mode", self.mode)
        if mode == "affine":
            made = configured(self if self.mode == "affine" else Mlx(method=self.method), rest, TABLE)
            return replace(made, scale_asked=self.scale_asked or "scale" in rest)
        if mode not in FLOATS:
            raise BadRequest(f"mode={mode[:20]}: one of affine, {', '.join(FLOATS)} expected")
        made = Mlx.of_mode(mode)  # type: ignore[arg-type]
        said = configured(Mlx(made.bits, made.group), rest, (BITS, GROUP))
        if (said.bits, said.group) != (made.bits, made.group):
            raise BadRequest(f"mode={mode} has {made.bits} bits and groups of {made.group}", "leave out bits and group")
        return made

    def unit(self, shape: Shape) -> int:
        return shape[-1]

    def misfit(self, shape: Shape) -> str | None:
        if self.mode == "affine" and self.bits not in WIDTHS:
            return f"MLX holds 2, 3, 4, 5, 6 or 8 bits, not {self.bits}"
        if self.mode == "affine" and self.group not in GROUPS:
            return f"MLX has groups of 32, 64 or 128, not {self.group or 'a row'}"
        if len(shape) < 2:
            return f"MLX quantises matrices, not {len(shape)} axes"
        return _grouped.odd_group(shape[-1], self.group, GROUPS)

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        module, lead, columns = stem(name), shape[:-1], shape[-1]
        groups = (*lead, groups_of(columns, self.group))
        weight = Part(f"{module}.weight", "U32", (*lead, _bits.words(columns, self.bits)))
        if self.mode in FLOATS:
            return weight, Part(f"{module}.scales", "U8", groups)
        return weight, Part(f"{module}.scales", self.scale, groups), Part(f"{module}.biases", self.scale, groups)

    def constants(self, name: str, shape: Shape) -> Mapping[str, bytes]:
        return {}

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        if self.mode == "affine":
            self._refuse_writing()
            return _grouped.pack(self, values, importance, self.method)
        rows, columns = matrix(values.shape)
        parts = tuple(np.zeros(part.size, np.uint8) for part in self.parts("weight", values.shape))
        for run in _grouped.runs(rows, columns):
            some = np.ascontiguousarray(values.reshape(rows, columns)[run])
            self.place(_mlx_floats.fit(some, self.grid, run.start * columns), parts, values.shape, run)
        return parts

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        return _grouped.unpack(self, parts, shape)

    def values(self, parts: Sequence[Array], shape: Shape, rows: slice) -> F32:
        return _codes.values(self.codes(parts, shape, rows))

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        codes = _bits.unpack(parts[0].reshape(matrix(shape)[0], -1)[rows], self.bits, shape[-1])
        groups = groups_of(shape[-1], self.group)
        found = [
            _grouped.floats(np.ascontiguousarray(part.reshape(matrix(shape)[0], -1)[rows]).reshape(-1), self._stored)
            for part in parts[1:]
        ]
        scales, biases = (*(one.reshape(-1, groups) for one in found), None)[:2]
        assert scales is not None  # noqa: S101 - every mode has them
        if self.offset == "middle" and biases is not None:
            _refuse_other_biases(scales, biases, -(2 ** (self.bits - 1)))
            biases = None
        return Codes(self.grid, codes, scales, biases=biases)

    @property
    def _stored(self) -> str:
        return "F8_E8M0" if self.scale == "E8M0" else self.scale

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        self._refuse_writing()
        parts[0].reshape(matrix(shape)[0], -1)[rows] = _bits.pack(codes.codes, self.bits)
        biases = codes.biases
        if biases is None:
            biases = codes.scales * np.float32(-(2 ** (self.bits - 1)))
        for part, figures, what in zip(parts[1:], (codes.scales, biases), ("scale", "bias"), strict=False):
            stored = _grouped.exactly(figures, self._stored, what)
            part.reshape(matrix(shape)[0], -1)[rows] = stored.reshape(len(stored), -1)

    def holds(self, other: Encoding) -> bool:
        return self == other

    def adopt(self, grid: Grid, shape: Shape) -> Mlx | str:
        """This encoding for codes of another grid as they are, or why there is none."""
        if grid.number != "integer":
            found = next((mode for mode, meant in FLOATS.items() if meant == _meaning(grid)), None)
            if found is None or grid.tile != 1:
                return f"MLX has no {grid.number} with scales of {grid.scale} for {grid.group or 'a row'}"
            made = Mlx.of_mode(found)  # type: ignore[arg-type]
            return made.misfit(shape) or made
        wrong = _grouped.same_numbers(grid, "MLX")
        if wrong is not None:
            return wrong
        group = next((size for size in GROUPS if (grid.group or shape[-1]) % size == 0), grid.group)
        scale = grid.scale if grid.scale in SCALES.values() else "F32"
        offset: Literal["float", "middle"] = "middle" if grid.offset == "middle" else "float"
        made = Mlx(grid.bits, group, scale, offset=offset, method=self.method, scale_asked=self.scale_asked)
        return made.misfit(shape) or made

    def for_model_of(self, dtype: str) -> Mlx:
        """For a model of this dtype, as mlx-lm converts it: bf16 scales for bf16, else f16, which f32 holds."""
        return self if self.scale_asked or self.mode in FLOATS or dtype != "BF16" else replace(self, scale=dtype)

    def _refuse_writing(self) -> None:
        if self.bits not in WIDTHS:
            raise Unsupported(f"{self.name} can be read but not written", "MLX is written with 2, 3, 4, 5, 6 or 8 bits")


def _refuse_other_biases(scales: F32, biases: F32, middle: int) -> None:
    other = biases != scales * np.float32(middle)
    if other.any():
        message = (
            f"a bias is {biases[other][0]:g} where those before it are {middle} times their scale, {scales[other][0]:g}"
        )
        raise BrokenFile(message, "fetch the file again", rule="quantization-mismatch")


def _meaning(grid: Grid) -> tuple[Number, int, int, str]:
    return grid.number, grid.bits, grid.group, grid.scale


encoding = Mlx()
