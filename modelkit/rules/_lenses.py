"""How to look at stored bytes without decoding them: which bits make a NaN, an infinity, a largest value.

A float is looked at as an integer: without its sign it grows with the value, infinity is one pattern, NaN is
everything above it. Of a block only the scales and minimums are looked at: a NaN there spoils the whole block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelkit.tensors import BITS, Tensor


@dataclass(frozen=True, slots=True)
class Lens:
    """`width` bytes a number. Patterns without the sign: `infinity` (None = the format has none), the first
    that is `nan`, and the `largest` finite one. `sign` False: the top bit is no sign.
    """

    width: int
    nan: int
    infinity: int | None
    largest: int
    sign: bool = True
    only: int | None = None  # NaN is this one pattern, sign included


F16 = Lens(2, 0x7C01, 0x7C00, 0x7BFF)
F32 = Lens(4, 0x7F800001, 0x7F800000, 0x7F7FFFFF)
E4M3 = Lens(1, 0x7F, None, 0x7E)
E8M0 = Lens(1, 0xFF, None, 0xFE, sign=False)
FLOATS: Mapping[str, Lens] = {
    "F64": Lens(8, 0x7FF0000000000001, 0x7FF0000000000000, 0x7FEFFFFFFFFFFFFF),
    "F32": F32,
    "C64": F32,
    "F16": F16,
    "BF16": Lens(2, 0x7F81, 0x7F80, 0x7F7F),
    "F8_E4M3": E4M3,
    "F8_E5M2": Lens(1, 0x7D, 0x7C, 0x7B),
    "F8_E4M3FNUZ": Lens(1, 0x80, None, 0x7F, only=0x80),
    "F8_E5M2FNUZ": Lens(1, 0x80, None, 0x7F, only=0x80),
    "F8_E8M0": E8M0,
}
"""By stored dtype; integers, bools, 4-bit and 6-bit floats have no NaN."""

FIELDS: Mapping[str, tuple[tuple[int, Lens], ...]] = {
    "q4_0": ((0, F16),), "q4_1": ((0, F16), (2, F16)), "q5_0": ((0, F16),), "q5_1": ((0, F16), (2, F16)),
    "q8_0": ((0, F16),), "q8_1": ((0, F16), (2, F16)), "q2_k": ((80, F16), (82, F16)), "q3_k": ((108, F16),),
    "q4_k": ((0, F16), (2, F16)), "q5_k": ((0, F16), (2, F16)), "q6_k": ((208, F16),), "q8_k": ((0, F32),),
    "iq1_s": ((0, F16),), "iq1_m": (), "iq2_xxs": ((0, F16),), "iq2_xs": ((0, F16),), "iq2_s": ((0, F16),),
    "iq3_xxs": ((0, F16),), "iq3_s": ((0, F16),), "iq4_nl": ((0, F16),), "iq4_xs": ((0, F16),),
    "tq1_0": ((52, F16),), "tq2_0": ((64, F16),), "q1_0": ((0, F16),), "q2_0": ((0, F16),),
    "mxfp4": ((0, E8M0),), "nvfp4": (),
}  # fmt: skip
"""By block encoding: offset within the block and kind of each scale and minimum.

iq1_m has none: its scale is spread over the top bits of four words (`_statistics.py`). A scale of nvfp4 is never NaN:
engines read its last pattern as 0.
"""


@dataclass(frozen=True, slots=True)
class View:
    """How to look at one part: numbers side by side, or fields of blocks of `unit` bytes. `scales`: not values."""

    unit: int
    fields: tuple[tuple[int, Lens], ...]
    scales: bool
    spread: bool = False  # iq1_m


def view(tensor: Tensor, part: int) -> View | None:
    """How to look at a part; None where no pattern is wrong. Raises KeyError for a block that is not in FIELDS."""
    stored = tensor.parts[part]
    lens = FLOATS.get(stored.dtype)
    if lens is not None:
        return View(lens.width, ((0, lens),), tensor.encoding.kind == "quantised" or _is_scale(tensor.name))
    if stored.dtype == "U8" and tensor.encoding.kind == "quantised" and len(tensor.parts) == 1:
        unit = getattr(tensor.encoding, "bytes", 0)
        return View(unit, FIELDS[tensor.encoding.name], True, tensor.encoding.name == "iq1_m")  # noqa: FBT003
    if stored.dtype == "U8" and stored.name.endswith(("_scales", ".weight_scale")):
        return View(1, ((0, E8M0),), True)  # noqa: FBT003 - MXFP4 as published: powers of two in bytes
    return None


def _is_scale(name: str) -> bool:
    return name.endswith((".scales", "_scale", "_scale_inv", "_scale_2", ".biases", ".absmax", "_global_scale"))


def size_of(dtype: str) -> int:
    """Bytes of an element, 1 for what is smaller."""
    return max(BITS[dtype] // 8, 1)
