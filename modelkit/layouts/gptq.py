"""GPTQ folders (AutoGPTQ, GPTQModel; vLLM, SGLang, exllama, transformers).

Settings: quant_method "gptq", bits, group_size (-1 = the whole row), sym, desc_act, checkpoint_format ("gptq" or
absent = version 1, "gptq_v2", "gptq_p" = planes); older names of them are understood. Labels lie, so the data say
which version the zeros are: symmetric ones are all 2**(bits - 1) - 1 (version 1) or all 2**(bits - 1); with others
the mean of code - zero is near 0 in the right version and a step away in the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelkit.encodings._grouped import groups_of
from modelkit.encodings.gptq import PLANES, WIDTHS, Gptq, plain_map
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, Companions
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, QuantisedLayout, Settings, Stored
from modelkit.layouts._gptq_versions import (
    Label,
    Version,
    say_if_labelled_otherwise,
    say_if_the_map_is_denied,
    say_what_is_odd,
    uniform_version,
    weighed_version,
)
from modelkit.layouts._gptq_zeros import wrapped
from modelkit.layouts._rules import COMPANION, GROUP, WIDTH
from modelkit.layouts._settings import linear_floats
from modelkit.tensors import Tensor

COMPANIONS = (".qzeros", ".scales", ".g_idx")


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by a map of groups beside packed weights."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "gptq")
    return any(f"{module}.qweight" in arrays for module in arrays.modules(".g_idx"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each qweight with its companions."""
    companions = Companions(arrays, faults)
    label = Label.of(settings)
    found = [one for module in arrays.modules(".qweight") if (one := _weight(companions, module, label))]
    say_if_the_map_is_denied(companions, found, label)
    told: set[str] = set()
    undecided: Version | None = None
    for tensor in found:
        encoding = tensor.encoding
        assert isinstance(encoding, Gptq)  # noqa: S101 - made below
        said = label.of_module(tensor.name.removesuffix(".weight"))
        version = uniform_version(arrays, tensor, encoding, said)
        if version not in (None, label.version or "v1") and said.symmetric is False:
            # equal zeros one step off the middle: of the other version, or of a weight that is a little lopsided
            undecided = undecided or weighed_version(companions, found, label)
            told.add(undecided)
            version = version if version == undecided else None
        if version is not None:
            encoding = replace(encoding, offset="middle", zeros=version)
            say_if_labelled_otherwise(companions, tensor, version, label, told)
        else:
            undecided = undecided or weighed_version(companions, found, label)
            encoding = replace(encoding, offset="integer", zeros=undecided)
            say_what_is_odd(companions, tensor, encoding, said, told)
        yield replace(tensor, encoding=encoding)


def _weight(companions: Companions, module: str, label: Label) -> Tensor | None:
    """The weight of a module, its zeros not looked at yet; None after a fault."""
    name = f"{module}.qweight"
    if not companions.complete(module, ".qweight", COMPANIONS):
        return None
    for ending, axes in ((".qweight", 2), (".scales", 2), (".g_idx", 1)):
        if not companions.axes(module + ending, axes, WIDTH if ending == ".qweight" else COMPANION):
            return None
    parts = {ending: companions.arrays.parts[module + ending] for ending in (".qweight", *COMPANIONS)}
    words, rows = parts[".qweight"].shape
    columns, groups = parts[".g_idx"].shape[0], parts[".scales"].shape[0]
    bits = words * 32 // columns if columns and (label.own or label.bits is None) else label.bits
    if bits is None or bits not in (PLANES if label.planar else WIDTHS):
        companions.wrong(name, f"has codes of {bits} bits; 2, 3, 4 or 8 (5 to 7 in planes) expected")
        return None
    if words * 32 != columns * bits:
        told = f"has {words:,} words for {columns:,} codes of {bits} bits, which fill {columns * bits / 32:,g}"
        told += f"; '{module}.g_idx' counts them"
        companions.wrong(name, told, rule=WIDTH)
        return None
    group = _group(columns, groups, label)
    scale = parts[".scales"].dtype
    if group is None or scale not in ("F16", "BF16", "F32"):
        what = f"is {scale} with {groups:,} groups of {columns:,} columns; the config says {label.group or 'none'}"
        alike = group is None and parts[".qzeros"].shape[:1] == (groups,)
        rule, fix = (
            (GROUP, "correct group_size in the config, if the arrays are right") if alike else (COMPANION, FETCH)
        )
        companions.wrong(f"{module}.scales", what, fix, rule)
        return None
    encoding = Gptq(bits, group, scale, planar=label.planar)
    made = companions.weight(f"{module}.weight", (rows, columns), encoding)
    return None if made is None else _with_map(companions, made, encoding, groups)


def _group(columns: int, groups: int, label: Label) -> int | None:
    """Columns of a group; 0 = all of them; None where the number of groups contradicts the config."""
    if label.group is not None:
        group = 0 if label.group > columns else label.group
        if groups == groups_of(columns, group) and not (label.own and group and columns % group):
            return group
        if not label.own:
            return None
    if groups == 1:
        return 0
    return columns // groups if groups and columns % groups == 0 else None


def _with_map(companions: Companions, tensor: Tensor, encoding: Gptq, groups: int) -> Tensor | None:
    """The map is there even where it is plain: its values decide, not its presence."""
    name = tensor.parts[3].name
    if companions.arrays.parts[name].size > LARGEST_PROBE:
        companions.wrong(name, f"has {tensor.shape[1]:,} columns; at most a million are read", rule=WIDTH)
        return None
    found = companions.arrays.read(name)
    if found == plain_map(tensor.shape[1], encoding.group):
        return tensor
    largest = max(memoryview(found).cast("I") if _little() else _swapped(found), default=0)  # -1 is the largest of all
    if largest >= groups:
        told = largest if largest < 2**31 else largest - 2**32
        companions.wrong(name, f"names group {told:,}, but there are {groups:,}", FETCH, COMPANION)
        return None
    return replace(tensor, encoding=replace(encoding, mapped=True))


def _little() -> bool:
    import sys

    return sys.byteorder == "little"


def _swapped(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def settings(tensors: Iterable[Tensor]) -> Mapping[str, Any]:
    """The config of weights in plain order; those that differ, or stay floats, are told apart by `dynamic`.

    Raises Unsupported for zeros of both versions in one model.
    """
    every = list(tensors)
    made = {one.name.removesuffix(".weight"): one.encoding for one in every if isinstance(one.encoding, Gptq)}
    if not made:
        return {}
    kinds = list(made.values())
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    if len({kind.zeros for kind in kinds}) > 1:
        raise Unsupported(
            "one model has zeros of one version of GPTQ", "give every weight the same zeros=v1 or zeros=v2"
        )
    dynamic: dict[str, Any] = {
        f"+:^{re.escape(module)}$": _numbers(encoding) for module, encoding in made.items() if encoding != usual
    }
    dynamic |= {f"-:^{re.escape(module)}$": {} for module in linear_floats(every, made)}
    found = {
        "quant_method": "gptq",
        **_numbers(usual),
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": any(module.rpartition(".")[2] == "lm_head" for module in made),
        "checkpoint_format": {"v1": "gptq", "v2": "gptq_v2"}[usual.zeros],
        "pack_dtype": "int32",
    }
    return {"quantization_config": {**found, "dynamic": dynamic} if dynamic else found}


def _numbers(encoding: Gptq) -> dict[str, Any]:
    return {"bits": encoding.bits, "group_size": encoding.group or -1, "sym": encoding.offset == "middle"}


def cautions(tensors: Iterable[Tensor], stored: Stored) -> Iterator[str]:
    """Zeros of 0 in version 1, which engines do not read alike."""
    found: dict[str, int] = {}
    for tensor in tensors:
        encoding = tensor.encoding
        if isinstance(encoding, Gptq) and (encoding.offset, encoding.zeros) == ("integer", "v1"):
            zeros, groups = tensor.parts[1], tensor.parts[1].shape[0]
            count = wrapped(stored(zeros.name), encoding, tensor.shape[0], groups)
            found |= {tensor.name: count} if count else {}
    if found:
        yield (
            f"{sum(found.values()):,} groups of {len(found):,} weights ('{next(iter(found))}' first) have a zero of 0, "
            "which version 1 of GPTQ stores as the topmost code: old exllama kernels do not count that round to 0, and "
            "GPTQModel carries it into the next row's zero. --to gptq:zeros=v2 stores zeros as they are"
        )


layout = QuantisedLayout("GPTQ (AutoGPTQ, GPTQModel)", recognises, fold, Gptq(), settings, cautions=cautions)
