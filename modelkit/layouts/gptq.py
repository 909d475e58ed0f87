"""GPTQ folders (AutoGPTQ, GPTQModel; vLLM, SGLang, exllama, transformers).

Settings: quant_method "gptq", bits, group_size (-1 = the whole row), sym, desc_act, checkpoint_format ("gptq" or
absent = version 1, "gptq_v2", "gptq_p" = planes); older names of them are understood. Labels lie, so the data say
which version the zeros are: symmetric ones are all 2**(bits - 1) - 1 (version 1) or all 2**(bits - 1); with others
the mean of code - zero is near 0 in the right version and a step away in the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from modelkit.encodings.gptq import PLANES, WIDTHS, Gptq, plain_map
from modelkit.faults import Faults
from modelkit.layouts import _stored as stored
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, QuantisedLayout, Settings
from modelkit.layouts._gptq_zeros import HEAD, balance, uniform
from modelkit.tensors import Tensor

ZEROS = "gptq-zero-convention"
MOST = 16  # weights whose codes are weighed against their zeros: more say nothing new
COMPANIONS = (".qzeros", ".scales", ".g_idx")
FORMATS = {"gptq": "v1", "gptq_v2": "v2", "gptq_p": "v2"}
NOT_LINEAR = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "tok_embeddings", "output")
Version = Literal["v1", "v2"]


@dataclass(frozen=True, slots=True)
class _Label:
    """What the config says; None where it says nothing. `group` 0 = the whole row."""

    bits: int | None
    group: int | None
    symmetric: bool | None
    version: Version | None
    planar: bool
    own: bool  # single modules may have bits and groups of their own

    @staticmethod
    def of(settings: Settings) -> _Label:
        group = stored.number(settings, ("group_size", "q_group_size", "groupsize"))
        symmetric = settings.get("sym")
        if symmetric is None and isinstance(settings.get("zero_point"), bool):
            symmetric = not settings["zero_point"]
        label = settings.get("checkpoint_format") or settings.get("format")
        return _Label(
            stored.number(settings, ("bits", "w_bit", "wbits")),
            0 if group is not None and group < 0 else group,
            symmetric if isinstance(symmetric, bool) else None,
            FORMATS.get(label) if isinstance(label, str) else None,  # type: ignore[arg-type]
            label == "gptq_p",
            bool(settings.get("dynamic")),
        )


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by a map of groups beside packed weights."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "gptq")
    return any(f"{module}.qweight" in arrays for module in stored.modules(arrays, ".g_idx"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each qweight with its companions."""
    label = _Label.of(settings)
    found = [one for module in stored.modules(arrays, ".qweight") if (one := _weight(arrays, module, label, faults))]
    told: set[str] = set()
    undecided: Version | None = None
    for tensor in found:
        encoding = tensor.encoding
        assert isinstance(encoding, Gptq)  # noqa: S101 - made below
        version = _uniform_version(arrays, tensor, encoding, label)
        if version is not None:
            encoding = replace(encoding, offset="middle", zeros=version)
            _say_if_labelled_otherwise(arrays, tensor, version, label, faults, told)
        else:
            undecided = undecided or _weighed_version(arrays, found, label, faults)
            encoding = replace(encoding, offset="integer", zeros=undecided)
            _say_what_is_odd(arrays, tensor, encoding, label, faults, told)
        yield replace(tensor, encoding=encoding)


def _weight(arrays: Arrays, module: str, label: _Label, faults: Faults) -> Tensor | None:
    """The weight of a module, its zeros not looked at yet; None after a fault."""
    name = f"{module}.qweight"
    if not stored.complete(arrays, module, ".qweight", COMPANIONS, faults):
        return None
    for ending, axes in ((".qweight", 2), (".scales", 2), (".g_idx", 1)):
        if not stored.axes(arrays, module + ending, axes, faults):
            return None
    parts = {ending: arrays.parts[module + ending] for ending in (".qweight", *COMPANIONS)}
    words, rows = parts[".qweight"].shape
    columns, groups = parts[".g_idx"].shape[0], parts[".scales"].shape[0]
    bits = words * 32 // columns if columns and (label.own or label.bits is None) else label.bits
    if bits is None or bits not in (PLANES if label.planar else WIDTHS):
        stored.mismatch(arrays, name, f"has codes of {bits} bits; 2, 3, 4 or 8 (5 to 7 in planes) expected", faults)
        return None
    if words * 32 != columns * bits:
        told = f"has {words:,} words for {columns:,} codes of {bits} bits, which fill {columns * bits / 32:,g}"
        stored.mismatch(arrays, name, told, faults)
        return None
    group = _group(columns, groups, label)
    scale = parts[".scales"].dtype
    if group is None or scale not in ("F16", "BF16", "F32"):
        what = f"is {scale} with {groups:,} groups of {columns:,} columns; the config says {label.group}"
        stored.mismatch(arrays, f"{module}.scales", what, faults)
        return None
    encoding = Gptq(bits, group, scale, planar=label.planar)
    made = stored.weight(arrays, f"{module}.weight", (rows, columns), encoding, faults)
    return None if made is None else _with_map(arrays, made, encoding, groups, faults)


def _group(columns: int, groups: int, label: _Label) -> int | None:
    """Columns of a group; 0 = all of them; None where the number of groups contradicts the config."""
    if label.group is None or label.own:
        if groups == 1:
            return 0
        return columns // groups if groups and columns % groups == 0 else None
    group = 0 if label.group >= columns else label.group
    return group if groups == (-(-columns // group) if group else 1) else None


def _with_map(arrays: Arrays, tensor: Tensor, encoding: Gptq, groups: int, faults: Faults) -> Tensor | None:
    """The map is there even where it is plain: its values decide, not its presence."""
    name = tensor.parts[3].name
    if arrays.parts[name].size > LARGEST_PROBE:
        stored.mismatch(arrays, name, f"has {tensor.shape[1]:,} columns; at most a million are read", faults)
        return None
    found = arrays.read(name)
    if found == plain_map(tensor.shape[1], encoding.group):
        return tensor
    largest = max(memoryview(found).cast("I") if _little() else _swapped(found), default=0)  # -1 is the largest of all
    if largest >= groups:
        told = largest if largest < 2**31 else largest - 2**32
        stored.mismatch(arrays, name, f"names group {told:,}, but there are {groups:,}", faults, stored.FETCH)
        return None
    return replace(tensor, encoding=replace(encoding, mapped=True))


def _little() -> bool:
    import sys

    return sys.byteorder == "little"


def _swapped(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _uniform_version(arrays: Arrays, tensor: Tensor, encoding: Gptq, label: _Label) -> Version | None:
    """The version by which all zeros lie in the middle; None where they do not."""
    name, middle = tensor.parts[1].name, 2 ** (encoding.bits - 1)
    head = arrays.read(name, HEAD)
    versions: tuple[tuple[Version, int], ...] = (("v1", middle - 1), ("v2", middle))
    for version, field in versions:
        if uniform(head, field, encoding, tensor.shape[0]):
            small = tensor.parts[1].size <= LARGEST_PROBE
            if label.symmetric is True:  # what lies behind the head is checked when it is read
                return version
            return version if small and uniform(arrays.read(name), field, encoding, tensor.shape[0]) else None
    return None


def _say_if_labelled_otherwise(
    arrays: Arrays, tensor: Tensor, version: Version, label: _Label, faults: Faults, told: set[str]
) -> None:
    if version == (label.version or "v1") or version in told:
        return
    told.add(version)
    name = tensor.parts[1].name
    true = "gptq" if version == "v1" else "gptq_v2"
    message = f"'{name}': the stored zeros are those of {true}, not of what the config says; the data are believed"
    fix = f"set checkpoint_format to {true}"
    faults.add(ZEROS, arrays.span(name).file, message, fix, tensor=name, severity="warning")


def _weighed_version(arrays: Arrays, found: list[Tensor], label: _Label, faults: Faults) -> Version:
    """The version by which codes lie evenly around their zeros; the label where the data do not say."""
    labelled: Version = label.version or "v1"
    means: dict[Version, float] = {"v1": 0.0, "v2": 0.0}
    weighed = 0
    for tensor in found[:MOST]:
        assert isinstance(tensor.encoding, Gptq)  # noqa: S101 - made above
        one = balance(arrays, tensor, tensor.encoding)
        if one is not None:
            means = {"v1": means["v1"] + one[0], "v2": means["v2"] + one[1]}
            weighed += 1
    other: Version = "v2" if labelled == "v1" else "v1"
    if not weighed or abs(means[labelled]) < 0.7 * weighed:
        return labelled
    name = found[0].parts[1].name
    file = arrays.span(name).file
    clear = abs(means[other]) < 0.3 * weighed
    true = {"v1": "gptq", "v2": "gptq_v2"}[other if clear else labelled]
    message = (
        f"'{name}': codes lie {abs(means[labelled]) / weighed:.2f} steps off their zeros as the config counts them; "
        + (f"as {true} they lie around them: the data are believed" if clear else "the other way does not fit either")
    )
    fix = f"set checkpoint_format to {true}" if clear else "verify the model by running it"
    faults.add(ZEROS, file, message, fix, tensor=name, severity="warning")
    return other if clear else labelled


def _say_what_is_odd(
    arrays: Arrays, tensor: Tensor, encoding: Gptq, label: _Label, faults: Faults, told: set[str]
) -> None:
    """Zeros that differ where the config says symmetric; a version 1 zero of 0, which engines read as 2**bits too."""
    name = tensor.parts[1].name
    file = arrays.span(name).file
    if label.symmetric is True and "symmetric" not in told:
        told.add("symmetric")
        message = f"'{name}' has different zeros, but the config says symmetric; the data are believed"
        faults.add(stored.MISMATCH, file, message, "set sym to false", tensor=name, severity="warning")
    if encoding.zeros != "v1" or "wrap" in told:
        return
    head = arrays.read(name, HEAD)
    if _has_top(head, encoding.bits):
        told.add("wrap")
        message = (
            f"'{name}' stores a zero of 0 as {2**encoding.bits - 1}, which old exllama kernels take for a zero of "
        )
        message += f"{2**encoding.bits}; modelkit reads 0, as GPTQModel does"
        faults.add(ZEROS, file, message, "use an engine that wraps, or gptq_v2", tensor=name, severity="warning")


def _has_top(data: bytes, bits: int) -> bool:
    """Whether dense codes hold the topmost one. Runs of three bytes hold whole 3-bit codes, one byte the others."""
    top = 2**bits - 1
    if bits == 8:
        return b"\xff" in data
    size, count = (3, 8) if bits == 3 else (1, 8 // bits)
    numbers = {int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)}
    return any(number >> bits * place & top == top for number in numbers for place in range(count))


def settings(tensors: Iterable[Tensor]) -> Mapping[str, Any]:
    """The config of version 1 in plain order; weights that differ, or stay floats, are told apart by `dynamic`."""
    every = list(tensors)
    made = {one.name.removesuffix(".weight"): one.encoding for one in every if isinstance(one.encoding, Gptq)}
    if not made:
        return {}
    kinds = list(made.values())
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    dynamic: dict[str, Any] = {
        f"+:^{re.escape(module)}$": _numbers(encoding) for module, encoding in made.items() if encoding != usual
    }
    for tensor in every:
        module = tensor.name.removesuffix(".weight")
        linear = len(tensor.shape) == 2 and module != tensor.name and module.rpartition(".")[2] not in NOT_LINEAR
        if linear and module not in made:
            dynamic[f"-:^{re.escape(module)}$"] = {}
    found = {
        "quant_method": "gptq",
        **_numbers(usual),
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": any(module.rpartition(".")[2] == "lm_head" for module in made),
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
    }
    return {"quantization_config": {**found, "dynamic": dynamic} if dynamic else found}


def _numbers(encoding: Gptq) -> dict[str, Any]:
    return {"bits": encoding.bits, "group_size": encoding.group or -1, "sym": encoding.offset == "middle"}


layout = QuantisedLayout("GPTQ (AutoGPTQ, GPTQModel)", recognises, fold, Gptq(), settings)
