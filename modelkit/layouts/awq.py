"""AWQ folders (AutoAWQ, llm-awq; vLLM, SGLang, TGI, lmdeploy): 4 bits only.

Settings: quant_method "awq", bits, group_size (-1 = the whole row), zero_point, version ("gemm", "gemv", "gemv_fast"),
modules_to_not_convert; AutoAWQ's own file calls them w_bit and q_group_size. Shapes tell the versions apart, except
that qweight of a square matrix has one shape in gemm and gemv: there `version` has to say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelkit.encodings.awq import VERSIONS, Awq, Version
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.layouts import _stored as stored
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import COMPANION, GROUP, VARIANT, WIDTH
from modelkit.tensors import Tensor

HEAD = 4096
"""Bytes of a weight's zeros that are looked at before all of them are."""
SAY_VERSION = "set version in the quantization config to gemm or gemv, as the model was made"


@dataclass(frozen=True, slots=True)
class _Label:
    """What the config says; None where it says nothing. `group` 0 = the whole row."""

    bits: int | None
    group: int | None
    version: Version | None

    @staticmethod
    def of(settings: Settings) -> _Label:
        group = stored.number(settings, ("group_size", "q_group_size"))
        version = settings.get("version")
        return _Label(
            stored.number(settings, ("bits", "w_bit")),
            0 if group is not None and group < 0 else group or None,
            VERSIONS.get(version.lower()) if isinstance(version, str) else None,
        )


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by packed weights and zeros without a map of groups."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "awq")
    return any(f"{one}.qzeros" in arrays and f"{one}.g_idx" not in arrays for one in stored.modules(arrays, ".qweight"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each qweight with its companions."""
    label = _Label.of(settings)
    for module in stored.modules(arrays, ".qweight"):
        made = _weight(arrays, module, label, faults)
        if made is not None:
            yield _with_middle(arrays, made)


def _weight(arrays: Arrays, module: str, label: _Label, faults: Faults) -> Tensor | None:
    """The weight of a module, its zeros not looked at yet; None after a fault."""
    name = f"{module}.qweight"
    if not stored.complete(arrays, module, ".qweight", (".qzeros", ".scales"), faults):
        return None
    for ending in (".qweight", ".qzeros", ".scales"):
        if not stored.axes(arrays, module + ending, 2, faults, WIDTH if ending == ".qweight" else COMPANION):
            return None
    if label.bits not in (4, None):
        stored.mismatch(arrays, name, f"should have codes of {label.bits} bits; AWQ holds 4 bits only", faults)
        return None
    version = _version(arrays, module, label, faults)
    shape = None if version is None else _shape(arrays, module, version)
    group = None if shape is None else _group(arrays, module, shape[1], label, faults)
    if version is None or shape is None or group is None:
        return None
    scale = arrays.parts[f"{module}.scales"].dtype
    if scale not in ("F16", "BF16", "F32"):
        stored.mismatch(arrays, f"{module}.scales", f"is {scale}; F16 expected", faults, rule=COMPANION)
        return None
    return stored.weight(arrays, f"{module}.weight", shape, Awq(4, group, scale, "integer", version), faults)


def _version(arrays: Arrays, module: str, label: _Label, faults: Faults) -> Version | None:
    """The version that shapes say, or that the config says where shapes do not; None after a fault."""
    weight, scales = arrays.parts[f"{module}.qweight"], arrays.parts[f"{module}.scales"]
    first, second = weight.shape
    fitting: list[Version] = []
    if weight.dtype == "I16":
        fitting = ["gemv_fast"]
    elif first == second * 8:
        fitting = ["gemm", "gemv"]
    elif scales.shape[1] == second * 8:
        fitting = ["gemm"]
    elif scales.shape[0] == first:
        fitting = ["gemv"]
    name = f"{module}.qweight"
    if not fitting:
        told = f"is {list(weight.shape)} with scales {list(scales.shape)}, which no version of AWQ has"
        stored.mismatch(arrays, name, told, faults, rule=COMPANION)
    elif label.version is not None and label.version not in fitting:
        told = f"is {weight.dtype} {list(weight.shape)}, as in {fitting[0]}; the config says {label.version}"
        stored.mismatch(arrays, name, told, faults, SAY_VERSION, VARIANT)
    elif label.version is None and len(fitting) > 1:
        told = f"is square: {list(weight.shape)} is gemm or gemv, and the config does not say which"
        stored.mismatch(arrays, name, told, faults, SAY_VERSION, VARIANT)
    else:
        return label.version or fitting[0]
    return None


def _shape(arrays: Arrays, module: str, version: Version) -> tuple[int, int]:
    first, second = arrays.parts[f"{module}.qweight"].shape
    return {"gemm": (second * 8, first), "gemv": (first, second * 8), "gemv_fast": (first * 4, second)}[version]


def _group(arrays: Arrays, module: str, columns: int, label: _Label, faults: Faults) -> int | None:
    """Columns of a group; 0 = all of them; None after a fault."""
    groups = arrays.parts[f"{module}.scales"].shape[0]
    group = label.group
    if group is None and groups and columns % groups == 0:  # gemm; the others are filled up and fail when compared
        group = columns // groups
    if group == columns:
        return 0
    if group is None or group > columns or (group and columns % group):
        told = f"has {groups:,} rows; {columns:,} columns cannot be cut into groups of {group or 'a size not named'}"
        stored.mismatch(arrays, f"{module}.scales", told, faults, rule=GROUP)
        return None
    return group


def _with_middle(arrays: Arrays, tensor: Tensor) -> Tensor:
    """Zeros that are all 8 are those of a symmetric weight, whatever the config calls it."""
    encoding, zeros = tensor.encoding, tensor.parts[1]
    assert isinstance(encoding, Awq)  # noqa: S101 - made above
    if encoding.version != "gemm" or zeros.size > LARGEST_PROBE or not zeros.size:
        return tensor
    if set(arrays.read(zeros.name, HEAD)) != {0x88} or set(arrays.read(zeros.name)) != {0x88}:
        return tensor
    return replace(tensor, encoding=replace(encoding, offset="middle"))


def settings(tensors: Iterable[Tensor]) -> Mapping[str, Any]:
    """The config of gemm. Raises Unsupported for weights in groups of several sizes, which it cannot tell."""
    every = list(tensors)
    made = {one.name.removesuffix(".weight"): one.encoding for one in every if isinstance(one.encoding, Awq)}
    sizes = sorted({encoding.group for encoding in made.values()})
    if not made:
        return {}
    if len(sizes) > 1:
        told = ", ".join(str(size or "the row") for size in sizes)
        raise Unsupported(f"AWQ has one group size for all weights, not {told}", "choose one with group=SIZE")
    found = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": sizes[0] or -1,
        "zero_point": True,  # zeros are stored, and read, where all are 8 too
        "version": "gemm",
        "modules_to_not_convert": stored.linear_floats(every, made) or None,
    }
    return {"quantization_config": found}


layout = QuantisedLayout("AWQ (AutoAWQ, llm-awq)", recognises, fold, Awq(), settings)
