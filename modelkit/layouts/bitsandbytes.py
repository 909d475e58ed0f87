"""bitsandbytes folders (transformers, QLoRA): nf4 and fp4 with plain or nested scales, and int8 rows. Read only.

Settings: quant_method "bitsandbytes", load_in_4bit or load_in_8bit; what counts is stored beside each weight: a
`quant_state` of JSON (4 bits) or SCB (int8).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite, prod
from typing import Any

from modelkit.encodings.bitsandbytes import Bitsandbytes, with_beside
from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import COMPANION, MISSING, WIDTH
from modelkit.layouts._settings import whole_number
from modelkit.tensors import BITS, Tensor

LARGEST_STATE = 65_536
"""Bytes of a quant_state; real ones have some 200."""
MOST_AXES = 8
LARGEST_BLOCK = 65_536
STATE = ".weight.quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by a quant_state or an SCB."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "bitsandbytes")
    return any(STATE in name or name.endswith(".SCB") for name in arrays.parts)


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each packed array with its companions."""
    companions = Companions(arrays, faults)
    for module in arrays.modules(".weight.absmax"):
        companions.complete(module, ".weight.absmax", (".weight",))
    for module in arrays.modules(".SCB"):
        companions.complete(module, ".SCB", (".weight",))
    states = {name[: name.index(STATE)]: name for name in arrays.parts if STATE in name}
    for module in arrays.modules(".weight"):
        dtype = arrays.parts[f"{module}.weight"].dtype
        made = None
        if f"{module}.SCB" in arrays or dtype == "I8":
            made = _rows(companions, module)
        elif module in states or f"{module}.weight.absmax" in arrays or dtype == "U8":
            made = _table(companions, module, states.get(module))
        if made is not None:
            yield made


def _rows(companions: Companions, module: str) -> Tensor | None:
    """An int8 weight; None after a fault."""
    name = f"{module}.weight"
    if not companions.complete(module, ".weight", (".SCB",)):
        return None
    encoding = Bitsandbytes("int8")
    mark = companions.arrays.parts.get(f"{module}.weight_format")
    if mark is not None:
        found = companions.arrays.read(mark.name, 8)
        if any(found):
            companions.wrong(mark.name, f"is {found[0]}; 0 (by rows) is the one that is stored")
            return None
        encoding = with_beside(encoding, (mark,), module)
    if not companions.axes(name, 2, WIDTH):
        return None
    shape = companions.arrays.parts[name].shape
    return companions.weight(name, shape, encoding)


def _table(companions: Companions, module: str, state: str | None) -> Tensor | None:
    """A 4-bit weight; None after a fault."""
    name = f"{module}.weight"
    if state is None:
        message = f"'{name}' has no quant_state, which says what its codes mean"
        companions.say(MISSING, name, message, FETCH)
        return None
    said = _state(companions, state)
    if said is None:
        return None
    nested = "nested_offset" in said or "nested_blocksize" in said
    outer_ones = (".weight.nested_absmax", ".weight.nested_quant_map") if nested else ()
    needed = (".weight.absmax", ".weight.quant_map", *outer_ones)
    if not companions.complete(module, ".weight", needed):
        return None
    kind, block, shape, outer, offset = _numbers(said)
    wrong, rule = _what_is_wrong(said, kind, state, nested=nested), COMPANION
    if wrong is None:
        wrong, rule = _size_is_wrong(companions.arrays, name, shape), WIDTH
    if wrong is not None:
        companions.wrong(state, wrong, FETCH, rule)
        return None
    part = companions.arrays.parts[name]
    encoding = Bitsandbytes(kind, block, outer if nested else 0, offset, part.dtype)
    encoding = with_beside(encoding, (companions.arrays.parts[state],), module)
    return companions.weight(name, shape, encoding)


def _state(companions: Companions, name: str) -> Mapping[str, Any] | None:
    """The parsed quant_state; None after a fault."""
    if companions.arrays.parts[name].size > LARGEST_STATE:
        companions.wrong(
            name, f"has {companions.arrays.parts[name].size:,} bytes of JSON; some 200 expected", rule=COMPANION
        )
        return None
    try:
        found = json.loads(companions.arrays.read(name))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        companions.wrong(name, "is not the JSON that says what the codes mean", FETCH, COMPANION)
        return None
    return found


def _numbers(said: Mapping[str, Any]) -> tuple[Any, int, tuple[int, ...], int, float]:
    """quant_type, blocksize, shape, nested_blocksize, nested_offset; 0 and () for what is no number at all."""
    shape = said.get("shape")
    axes = shape if isinstance(shape, list) and all(type(one) is int for one in shape) else []
    block, outer = whole_number(said, ("blocksize",)) or 0, whole_number(said, ("nested_blocksize",)) or 0
    offset = said.get("nested_offset", 0.0)
    number = float(offset) if type(offset) is float or (type(offset) is int and abs(offset) < 2**64) else float("nan")
    return said.get("quant_type"), block, tuple(axes), outer, number


def _what_is_wrong(said: Mapping[str, Any], kind: Any, state: str, *, nested: bool) -> str | None:
    """What a quant_state says that cannot be; None for a good one."""
    _, block, shape, outer, offset = _numbers(said)
    if kind not in KINDS or not state.endswith(kind):
        return f"says quant_type {str(kind)[:40]!r}; {state.rpartition('__')[2][:40]!r} expected"
    if not 0 < block <= LARGEST_BLOCK or (nested and not 0 < outer <= LARGEST_BLOCK):
        return f"says blocksize {said.get('blocksize')}, nested {said.get('nested_blocksize')}; whole numbers expected"
    if not shape or len(shape) > MOST_AXES or min(shape) < 1:
        return f"says shape {str(said.get('shape'))[:80]}; a few whole numbers above 0 expected"
    if nested and "nested_offset" not in said:
        return "has nested scales, but says no nested_offset"
    return None if isfinite(offset) else f"says nested_offset {str(said.get('nested_offset'))[:40]}; a number expected"


def _size_is_wrong(arrays: Arrays, name: str, shape: tuple[int, ...]) -> str | None:
    part = arrays.parts[name]
    if part.dtype not in ("U8", "I8", "F16", "BF16", "F32"):
        return f"belongs to bytes, but '{name}' is {part.dtype}"
    needed, width = -(-prod(shape) // 2), BITS[part.dtype] // 8
    if part.size != -(-needed // width) * width:
        return f"says shape {list(shape)}, which needs {needed:,} bytes; '{name}' has {part.size:,}"
    return None


layout = QuantisedLayout("bitsandbytes (transformers)", recognises, fold)
