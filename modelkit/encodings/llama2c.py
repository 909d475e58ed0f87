"""The int8 groups of llama2.c version 2: `group` consecutive values share one f32 scale.

    part          dtype            value = code * scale
    NAME          i8[count]        codes -127..127, rounded half to even (x is divided by the scale)
    NAME.scale    f32[count/group] largest magnitude / 127

Values are flattened before they are grouped, so a group may straddle rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import TYPE_CHECKING, ClassVar

from modelkit import kernels
from modelkit.encodings._grouped import same_numbers
from modelkit.encodings._slabs import refuse_nonfinite, slabs
from modelkit.kernels import groups
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid, Part

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array, Encoding, Kind, Shape


@dataclass(frozen=True, slots=True)
class Llama2c:
    """`group`: values that share a scale; the programs that run such files take what the header says."""

    group: int = 64
    kind: Kind = "quantised"
    ggml: int | None = None
    dtype: str | None = None
    parameters: ClassVar[tuple[str, ...]] = ("group",)

    @property
    def name(self) -> str:
        return f"llama2c:group={self.group}"

    def unit(self, shape: Shape) -> int:
        return self.group

    def misfit(self, shape: Shape) -> str | None:
        return f"{prod(shape):,} values are no multiple of {self.group}" if prod(shape) % self.group else None

    def parts(self, name: str, shape: Shape) -> tuple[Part, ...]:
        return Part(name, "I8", shape), Part(f"{name}.scale", "F32", (prod(shape) // self.group,))

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        rows = values.reshape(-1, self.group)  # (group, value)
        codes = np.empty(rows.shape, np.int8)
        scales = np.empty(len(rows), np.float32)
        for run in slabs(len(rows), self.group):
            refuse_nonfinite(rows[run], self.name, run.start * self.group)
            low, high = groups.extremes(rows[run])
            scales[run] = np.maximum(-low, high) / np.float32(127)
            codes[run] = groups.codes(rows[run], scales[run], None, -127, 127)  # a subnormal scale passes 127
        return codes.reshape(values.shape), scales.astype("<f4", copy=False)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        codes = parts[0].view(np.int8).reshape(-1, self.group)
        scales = np.require(parts[1].reshape(-1).view("<f4"), np.float32, ("C", "A"))
        return groups.values(codes, scales, None).reshape(shape)

    @property
    def grid(self) -> Grid:
        return Grid(8, self.group, "F32")

    def codes(self, parts: Sequence[Array], shape: Shape, rows: slice) -> Codes:
        """What is stored of these rows, as `Grouped` has it; groups that straddle rows count as smaller ones."""
        columns = shape[-1]
        group = gcd(columns, self.group)
        first, last = rows.start * columns, rows.stop * columns
        codes = (parts[0].view(np.uint8)[first:last] ^ np.uint8(0x80)).reshape(-1, columns)
        stored = parts[1].reshape(-1).view("<f4")
        scales = stored[np.arange(first, last, group) // self.group].astype(np.float32).reshape(-1, columns // group)
        return Codes(replace(self.grid, group=group), codes, scales)

    def place(self, codes: Codes, parts: Sequence[Array], shape: Shape, rows: slice) -> None:
        """Write codes of this grid into their place; groups do not straddle rows here."""
        columns = shape[-1]
        parts[0].reshape(-1, columns)[rows] = codes.codes ^ np.uint8(0x80)
        parts[1].view("<f4").reshape(-1, columns // self.group)[rows] = codes.scales

    def adopt(self, grid: Grid, shape: Shape) -> Llama2c | str:
        """This encoding for codes of another grid as they are, or why it does not hold them."""
        wrong = same_numbers(grid, "llama2c")
        if wrong is not None:
            return wrong
        if grid.bits != 8 or grid.offset != "middle":
            return "llama2c holds codes of 8 bits around 0 only"
        group = grid.group or shape[-1]
        if group % self.group or shape[-1] % self.group:
            size = gcd(group, shape[-1])
            return f"groups of {self.group} do not divide groups of {group}; llama2c:group={size} does"
        return self

    def multiplies(self, shape: Shape) -> bool:
        whole = self.group % 32 == 0 and shape[-1] % self.group == 0  # a kernel's sums; no group straddles rows
        return whole and kernels.native() is not None

    def multiply(self, parts: Sequence[Array], shape: Shape, vector: F32) -> F32:
        codes = parts[0].view(np.int8).reshape(shape)
        scales = np.require(parts[1].reshape(-1).view("<f4"), np.float32, ("C", "A"))
        return groups.multiply_groups(codes, scales, None, vector)

    def holds(self, other: Encoding) -> bool:
        return self == other


encoding = Llama2c()
