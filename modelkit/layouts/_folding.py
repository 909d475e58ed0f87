"""Fold the stored arrays of a quantised model into the weights that they mean, and say which layout that was."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelkit.faults import Faults
from modelkit.layouts import LAYOUTS
from modelkit.layouts._contract import Arrays, Settings
from modelkit.layouts._ignore_lists import Listed, say_what_is_listed
from modelkit.sources import Opener
from modelkit.tensors import Model, Tensor

BESIDE = re.compile(
    r".+\.(?:input_scale|input_global_scale|output_scale|input_zero_point|output_zero_point|k_scale|v_scale|q_scale"
    r"|weight_format)|.+\.(?:k|v)_proj\.output_scale"
)
"""Arrays that speak of activations or caches: they belong to a layout's engines and to no weight."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A model with its weights folded, the layout's name ("" for none), and the small reads that decided something."""

    model: Model
    layout: str = ""
    probes: tuple[str, ...] = ()


def fold(model: Model, opener: Opener, settings: Settings, faults: Faults) -> Folded:
    """The same model; raises or collects what does not fit together. Spans stay those of the stored arrays."""
    arrays = Arrays(model, opener)
    for name in LAYOUTS:
        if LAYOUTS[name].recognises(settings, arrays):
            folded = tuple(LAYOUTS[name].fold(arrays, settings, faults))
            say_what_is_listed(arrays, folded, Listed.of(name, settings), faults)
            if folded:
                return Folded(_with(model, folded), name, tuple(arrays.probes))
            return Folded(model)
    return Folded(model)


def _with(model: Model, folded: Iterable[Tensor]) -> Model:
    """Each weight stands where the first of its arrays stood."""
    taken: dict[str, Tensor] = {}
    for tensor in folded:
        taken.update((part.name, tensor) for part in tensor.parts)
    tensors: dict[str, Tensor] = {}
    for stored in model.tensors:
        tensor = taken.get(stored.name, stored)
        tensors.setdefault(tensor.name, tensor)
    return replace(model, tensors=tuple(tensors.values()))


def leftover(name: str) -> bool:
    """Whether an array speaks of activations or caches, not of weights."""
    return BESIDE.fullmatch(name) is not None
