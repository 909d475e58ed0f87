"""The weight that a stored array is a part of: `x.qweight`, `x.scales` and `x.weight_packed` all store `x.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterable

GROUPED = re.compile(r"(.+)\.(qweight|qzeros|scales|biases|g_idx|SCB|weight_format|W_q)")
BESIDE = re.compile(
    r"(.+\.weight)(?:_(?:packed|scale|scale_inv|scale_2|shape|zero_point|g_idx|global_scale)"
    r"|\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+|SCB))"
)
ACTIVATION = re.compile(r".+\.(?:input_scale|input_global_scale|output_scale|input_zero_point|k_scale|v_scale)")


def weight_of(name: str) -> str | None:
    """The weight's name; the name itself for an ordinary tensor, None for a scale of activations."""
    match = GROUPED.fullmatch(name)
    if match is not None:
        return f"{match[1]}.weight"
    match = BESIDE.fullmatch(name)
    if match is not None:
        return match[1]
    return None if ACTIVATION.fullmatch(name) else name


def companions(names: Iterable[str]) -> dict[str, set[str]]:
    """By weight, the endings of the arrays that store it, for weights that are stored in several."""
    found: dict[str, set[str]] = {}
    for name in names:
        weight = weight_of(name)
        if weight is not None and weight != name:
            stem = weight.removesuffix("weight")
            found.setdefault(weight, set()).add(name.removeprefix(stem))
    return found
