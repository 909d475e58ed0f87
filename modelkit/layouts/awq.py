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
from modelkit.layouts._companions import Companions
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import COMPANION, GROUP, VARIANT, WIDTH
from modelkit.layouts._settings import linear_floats, whole_number
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
        group = whole_number(settings, ("group_size", "q_group_size"))
        version = settings.get("version")
        return _Label(
            whole_number(settings, ("bits", "w_bit")),
            0 if group is not None and group < 0 else group or None,
            VERSIONS.get(version.lower()) if isinstance(version, str) else None,
        )


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by packed weights and zeros without a map of groups."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "awq")
    return any(f"{one}.qzeros" in arrays and f"{one}.g_idx" not in arrays for one in arrays.modules(".qweight"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each qweight with its companions."""
    companions = Companions(arrays, faults)
    label = _Label.of(settings)
    for module in arrays.modules(".qweight"):
        made = _weight(companions, module, label)
        if made is not None:
            yield _with_middle(arrays, made)


def _weight(companions: Companions, module: str, label: _Label) -> Tensor | None:
    """The weight of a module, its zeros not looked at yet; None after a fault."""
    name = f"{module}.qweight"
    if not companions.complete(module, ".qweight", (".qzeros", ".scales")):
        return None
    for ending in (".qweight", ".qzeros", ".scales"):
        if not companions.axes(module + ending, 2, WIDTH if ending == ".qweight" else COMPANION):
            return None
    if label.bits not in (4, None):
        companions.wrong(name, f"should have codes of {label.bits} bits; AWQ holds 4 bits only")
        return None
    version = _version(companions, module, label)
    shape = None if version is None else _shape(companions.arrays, module, version)
    group = None if shape is None or version is None else _group(companions, module, version, shape[1], label)
    if version is None or shape is None or group is None:
        return None
    scale = companions.arrays.parts[f"{module}.scales"].dtype
    if scale not in ("F16", "BF16", "F32"):
        companions.wrong(f"{module}.scales", f"is {scale}; F16 expected", rule=COMPANION)
        return None
    return companions.weight(f"{module}.weight", shape, Awq(4, group, scale, "integer", version))


def _version(companions: Companions, module: str, label: _Label) -> Version | None:
    """The version that shapes say, or that the config says where shapes do not; None after a fault."""
    weight, scales = companions.arrays.parts[f"{module}.qweight"], companions.arrays.parts[f"{module}.scales"]
    first, second = weight.shape
    fitting: list[Version] = []
    if weight.dtype == "I16":
        fitting = ["gemv_fast"]
    else:
        gemm, gemv = scales.shape[1] == second * 8, scales.shape[0] == first
        tried: tuple[tuple[Version, bool], ...] = (("gemm", gemm), ("gemv", gemv))
        fitting = [version for version, fits in tried if fits]
    name = f"{module}.qweight"
    if not fitting:
        told = f"is {list(weight.shape)} with scales {list(scales.shape)}, which no version of AWQ has"
        companions.wrong(name, told, rule=COMPANION)
    elif label.version is not None and label.version not in fitting:
        told = f"is {weight.dtype} {list(weight.shape)}, as in {fitting[0]}; the config says {label.version}"
        companions.wrong(name, told, SAY_VERSION, VARIANT)
    elif label.version is None and first == second * 8:
        told = f"is square: {list(weight.shape)} is gemm or gemv, and the config does not say which"
        told += f"; its scales are as in {fitting[0]}" if len(fitting) == 1 else ""
        companions.wrong(name, told, SAY_VERSION, VARIANT)
    else:
        return label.version or fitting[0]
    return None


def _shape(arrays: Arrays, module: str, version: Version) -> tuple[int, int]:
    first, second = arrays.parts[f"{module}.qweight"].shape
    return {"gemm": (second * 8, first), "gemv": (first, second * 8), "gemv_fast": (first * 4, second)}[version]


def _group(companions: Companions, module: str, version: Version, columns: int, label: _Label) -> int | None:
    """Columns of a group; 0 = all of them; None after a fault."""
    groups, zeros = (companions.arrays.parts[f"{module}.{one}"].shape[0] for one in ("scales", "qzeros"))
    group = label.group
    if group and version == "gemm" and groups == zeros and -(-columns // group) != groups:
        told = f"has {groups:,} rows; {columns:,} columns in groups of {group} need {-(-columns // group):,}"
        fix = "correct group_size in the config, if the arrays are right"
        companions.wrong(f"{module}.scales", told, fix, GROUP)
        return None
    if group is None and groups and columns % groups == 0:  # gemm; the others are filled up and fail when compared
        group = columns // groups
    if group == columns and label.group is None:
        return 0
    if group is None or group > columns or (group and columns % group):
        told = f"has {groups:,} rows; {columns:,} columns cannot be cut into groups of {group or 'a size not named'}"
        companions.wrong(f"{module}.scales", told, rule=GROUP)
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
        "modules_to_not_convert": linear_floats(every, made) or None,
    }
    return {"quantization_config": found}


layout = QuantisedLayout("AWQ (AutoAWQ, llm-awq)", recognises, fold, Awq(), settings)
