"""The int8 groups of llama2.c version 2: `group` consecutive values share one f32 scale.

    part          dtype            value = code * scale
    NAME          i8[count]        codes -127..127, rounded half to even
    NAME.scale    f32[count/group] largest magnitude / 127

Values are flattened before they are grouped, so a group may straddle rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from modelkit.encodings._kinds import refuse_nonfinite
from modelkit.lazy import np
from modelkit.tensors import Part

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

    def pack(self, values: F32) -> tuple[Array, ...]:
        refuse_nonfinite(values, self.name)
        groups = values.reshape(-1, self.group)  # (group, value)
        scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.divide(groups, scale, out=np.zeros_like(groups), where=scale != 0)  # an all-zero group has scale 0
        return np.rint(codes).astype(np.int8).reshape(values.shape), scale.astype("<f4").reshape(-1)

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        codes = parts[0].view(np.int8).reshape(-1, self.group)
        scale = parts[1].reshape(-1).view(np.uint8).view("<f4").reshape(-1, 1)
        return (codes * scale).astype(np.float32, copy=False).reshape(shape)

    def holds(self, other: Encoding) -> bool:
        return self == other


encoding = Llama2c()
