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

from modelkit.encodings._slabs import refuse_nonfinite, slabs
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

    def pack(self, values: F32, importance: F32 | None = None) -> tuple[Array, ...]:
        groups = values.reshape(-1, self.group)  # (group, value)
        codes = np.empty(groups.shape, np.int8)
        scales = np.empty(len(groups), "<f4")
        for run in slabs(len(groups), self.group):
            refuse_nonfinite(groups[run], self.name, run.start * self.group)
            scales[run], codes[run] = _encode(groups[run])
        return codes.reshape(values.shape), scales

    def unpack(self, parts: Sequence[Array], shape: Shape) -> F32:
        codes = parts[0].view(np.int8).reshape(-1, self.group)
        scales = parts[1].reshape(-1).view("<f4").reshape(-1, 1)
        with np.errstate(all="ignore"):  # damaged scales may be infinite: 0 * infinity is NaN, not a fault here
            values: F32 = np.multiply(codes, scales, dtype=np.float32)
        return values.reshape(shape)

    def holds(self, other: Encoding) -> bool:
        return self == other


def _encode(groups: F32) -> tuple[F32, F32]:
    """The scale of each group, and x / scale, rounded half to even; a group without a scale gets zeros."""
    scale: F32 = np.abs(groups).max(axis=1) / np.float32(127)
    divisor: F32 = np.where(scale == 0, np.float32(np.inf), scale)
    codes: F32 = groups / divisor[:, None]  # export.py divides; multiplying by 1/scale gives other codes
    np.rint(codes, out=codes)
    return scale, np.clip(codes, -127, 127, out=codes)  # a subnormal scale is so coarse that codes pass 127


encoding = Llama2c()
