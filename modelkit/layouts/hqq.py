"""HQQ folders (hqq, transformers): each weight carries its own numbers as small arrays. Read only.

Settings: quant_method "hqq", quant_config {weight_quant_params {nbits, group_size, axis}}, for numbers that are not
stored beside a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from modelkit.encodings.hqq import SHARES, Hqq
from modelkit.faults import Faults
from modelkit.layouts._companions import Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import COMPANION, WIDTH
from modelkit.tensors import Shape, Tensor

PACKINGS = {"8bit_u8": 8, "4bit_u8": 4, "3bit_32": 3, "2bit_u8": 2, "1bit_u8": 1}
"""Bits that are stored; codes may have fewer."""
BESIDE = (
    ".axis", ".group_size", ".nbits", ".shape", ".channel_wise", ".compute_dtype", ".encoded_state_dict",
    ".offload_meta", ".optimize", ".packing", ".quant_scale", ".quant_zero", ".round_zero", ".stores_quant_config",
    ".unpack_view_dtype", ".view_as_float",
)  # fmt: skip
LARGEST_NOTE = 256
"""Bytes of such a small array."""
NESTED = (".quant_scale", ".quant_zero", ".view_as_float")
"""What must not be so: scales that are quantised themselves, codes that are viewed as floats."""


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By quant_method; where none is named by the name of the codes."""
    method = settings.get("quant_method")
    if method is not None:
        return bool(method == "hqq")
    return any(True for _ in arrays.modules(".W_q"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each W_q with its companions."""
    companions = Companions(arrays, faults)
    for module in arrays.modules(".W_q"):
        made = _weight(companions, module, settings)
        if made is not None:
            yield made


def _weight(companions: Companions, module: str, settings: Settings) -> Tensor | None:
    """The weight of a module; None after a fault."""
    name, arrays = f"{module}.W_q", companions.arrays
    if not companions.complete(module, ".W_q", (".scale", ".zero", ".shape")):
        return None
    beside = [ending for ending in BESIDE if module + ending in arrays]
    long = [module + ending for ending in beside if arrays.parts[module + ending].size > LARGEST_NOTE]
    if long:
        companions.wrong(long[0], f"has {arrays.parts[long[0]].size:,} bytes; a few expected", rule=COMPANION)
        return None
    if any(any(arrays.read(module + ending)) for ending in NESTED if module + ending in arrays):
        companions.wrong(name, "has scales that are quantised themselves, or codes viewed as floats")
        return None
    encoding, shape = _encoding(arrays, module, settings), _shape(arrays, module)
    if encoding is None or shape is None:
        companions.wrong(name, "has numbers beside it that cannot be: nbits, packing, axis, shape", rule=COMPANION)
        return None
    wrong = encoding.misfit(shape)
    if wrong is not None:
        companions.wrong(name, f"is said to be {list(shape)}, but {wrong}", rule=WIDTH)
        return None
    found = tuple(
        (ending, arrays.parts[module + ending].dtype, arrays.parts[module + ending].shape) for ending in beside
    )
    return companions.weight(f"{module}.weight", shape, replace(encoding, beside=found))


def _shape(arrays: Arrays, module: str) -> Shape | None:
    """The weight's rows and columns; None for numbers that no stored array of this model can belong to."""
    shape = tuple(_whole(arrays, f"{module}.shape"))
    packed = arrays.parts[f"{module}.W_q"].size
    if len(shape) != 2 or min(shape) < 1 or prod(shape) > 8 * packed + 8:
        return None
    return shape


def _encoding(arrays: Arrays, module: str, settings: Settings) -> Hqq | None:
    """What is stored beside the weight, else what the config says; None for what cannot be."""
    inner: Any = settings.get("quant_config")
    inner = inner.get("weight_quant_params") if isinstance(inner, dict) else None
    said: Mapping[str, Any] = inner if isinstance(inner, dict) else settings
    bits = _number(arrays, f"{module}.nbits", said.get("nbits"))
    group = _number(arrays, f"{module}.group_size", said.get("group_size"))
    axis = _number(arrays, f"{module}.axis", said.get("axis", 1))
    packing = f"{module}.packing"
    kept = PACKINGS.get(arrays.read(packing).decode("ascii", "replace"), 0) if packing in arrays else bits
    scale = arrays.parts[f"{module}.scale"].dtype
    if (
        kept not in SHARES
        or axis not in (0, 1)
        or bits is None
        or not 0 < bits <= kept
        or (group is not None and group < 1)
    ):
        return None
    return Hqq(kept, group or 0, scale, axis) if scale in ("F16", "BF16", "F32") else None


def _number(arrays: Arrays, name: str, otherwise: Any) -> int | None:
    if name in arrays:
        found = _whole(arrays, name)
        return found[0] if len(found) == 1 else -1
    return otherwise if type(otherwise) is int else None


def _whole(arrays: Arrays, name: str) -> list[int]:
    """The whole numbers of a small array; [] for another dtype."""
    size = {"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}.get(arrays.parts[name].dtype)
    if size is None:
        return []
    data = arrays.read(name)
    signed = arrays.parts[name].dtype != "U8"
    return [int.from_bytes(data[at : at + size], "little", signed=signed) for at in range(0, len(data), size)]


layout = QuantisedLayout("HQQ", recognises, fold)
