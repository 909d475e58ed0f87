"""Stored arrays of one weight, checked: are they all there, are they as wide as the encoding says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, TOGETHER
from modelkit.layouts._contract import Arrays, Settings
from modelkit.layouts._rules import COMPANION, MISMATCH, MISSING, WIDTH
from modelkit.tensors import Encoding, Part, Shape, Tensor

NOT_LINEAR = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "tok_embeddings", "output")
"""Last words of modules that are embeddings or heads."""


def modules(arrays: Arrays, ending: str) -> Iterator[str]:
    """`model.layers.0.mlp.up_proj` for each array whose name ends so."""
    for name in arrays.parts:
        if name.endswith(ending):
            yield name.removesuffix(ending)


def complete(arrays: Arrays, module: str, owner: str, others: Sequence[str], faults: Faults) -> bool:
    """Whether a packed array has its companions; each one that is missing is a fault."""
    missing = [ending for ending in others if module + ending not in arrays]
    for ending in missing:
        message = f"'{module}{owner}' has no {ending.lstrip('._')}"
        faults.add(MISSING, arrays.span(module + owner).file, message, FETCH, tensor=module + owner)
    return not missing


def mismatch(
    arrays: Arrays, name: str, message: str, faults: Faults, fix: str = TOGETHER, rule: str = MISMATCH
) -> None:
    """What an array is against what it should be."""
    faults.add(rule, arrays.span(name).file, f"'{name}' {message}", fix, tensor=name)


def weight(arrays: Arrays, name: str, shape: Shape, encoding: Encoding, faults: Faults) -> Tensor | None:
    """The weight that stored arrays make up; None after a fault where one of them has another dtype or shape."""
    parts = encoding.parts(name, shape)
    for number, part in enumerate(parts):
        found = arrays.parts[part.name]
        if (found.dtype, found.shape) != (part.dtype, part.shape):
            size = " x ".join(f"{one:,}" for one in shape)
            message = f"is {_told(found)}; {size} weights as {encoding.name} need {_told(part)}"
            mismatch(arrays, part.name, message, faults, rule=COMPANION if number else WIDTH)
            return None
    return Tensor(name, shape, encoding, parts)


def _told(part: Part) -> str:
    return f"{part.dtype} {list(part.shape)}"


def number(settings: Settings, keys: Sequence[str]) -> int | None:
    """The first of some keys that is there, if it is a whole number; None where there is none."""
    for key in keys:
        found: Any = settings.get(key)
        if type(found) is int:
            return found
    return None


def axes(arrays: Arrays, name: str, count: int, faults: Faults, rule: str = COMPANION) -> bool:
    """Whether an array has so many axes; a fault where it has not."""
    found = arrays.parts[name]
    if len(found.shape) != count:
        mismatch(arrays, name, f"has {len(found.shape)} axes; {count} expected", faults, rule=rule)
    return len(found.shape) == count


def linear_floats(tensors: Iterable[Tensor], quantised: Mapping[str, Encoding]) -> list[str]:
    """Modules of matrices that stay floats where an engine would expect them quantised: no embedding, no head."""
    found = []
    for tensor in tensors:
        module = tensor.name.removesuffix(".weight")
        linear = len(tensor.shape) == 2 and module != tensor.name and module.rpartition(".")[2] not in NOT_LINEAR
        if linear and module not in quantised:
            found.append(module)
    return found
