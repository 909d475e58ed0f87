"""The weights that the stored arrays of a quantised model mean, for rules: folded once, with what that turned up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelkit.errors import ModelkitError
from modelkit.faults import Fault, Faults
from modelkit.rules._contract import Subject
from modelkit.tensors import Tensor

if TYPE_CHECKING:
    from modelkit.tensors import Encoding


FLOATS = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class Weights:
    """`layout` is "" where there is none, or where the files are damaged or incomplete: then nothing is known.

    `tensors` are the quantised weights; `floats` are matrices that are stored as they are.
    """

    layout: str = ""
    settings: Mapping[str, Any] | None = None
    tensors: tuple[Tensor, ...] = ()
    floats: tuple[Tensor, ...] = ()
    faults: tuple[Fault, ...] = ()


def folded(subject: Subject) -> Weights:
    """Read small arrays where they decide something; never raises for what a file says."""
    if subject.format.dialect != "huggingface" or subject.broken or subject.missing or subject.is_one_of_several:
        return Weights()
    from modelkit.layouts._opening import may_be_quantised, settings_of

    if not may_be_quantised(subject.model, subject.opener):
        return Weights()
    from modelkit.layouts._folding import fold

    faults = Faults(strict=False)
    settings = settings_of(subject.model, subject.opener)
    try:
        found = fold(subject.model, subject.opener, settings, faults)
    except ModelkitError as error:
        rule = getattr(error, "rule", "") or "not-fully-checked"
        faults.add(rule, subject.place, error.message, error.fix)
        return Weights(faults=tuple(faults.found))
    quantised = tuple(tensor for tensor in found.model.tensors if _of_layout(tensor.encoding))
    matrices = tuple(
        tensor
        for tensor in found.model.tensors
        if tensor.encoding.name in FLOATS and len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    )
    return Weights(found.layout, settings, quantised, matrices, tuple(faults.found))


def _of_layout(encoding: Encoding) -> bool:
    return bool(getattr(encoding, "layout", None))
