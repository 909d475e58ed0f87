"""NVFP4 as NVIDIA's ModelOpt writes it: e2m1 weights, an e4m3 scale for 16 of them, and one for the tensor.

    part                    dtype  of a weight [O, I] named PREFIX.weight
    PREFIX.weight           u8     [O, I / 2], the even column in the low half
    PREFIX.weight_scale     e4m3   [O, I / 16]
    PREFIX.weight_scale_2   f32    [] or [1]
    PREFIX.input_scale      f32    of activations: left alone

value = weight * weight_scale * weight_scale_2: it multiplies, where compressed-tensors' global scale divides. FP8 of
ModelOpt, e4m3 with one weight_scale, is read too.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.encodings._small_floats import SmallFloats
from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, FLOATS, Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._ct_floats import one, scaled
from modelkit.layouts._ct_schemes import Scheme
from modelkit.layouts._rules import MISSING
from modelkit.tensors import Tensor

NVFP4 = SmallFloats("e2m1", 16, 1, "F8_E4M3", "factor", "modelopt")
SECOND, SCALE, WEIGHT = ".weight_scale_2", ".weight_scale", ".weight"


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By the config's method or producer; without a config by the second scale."""
    producer = settings.get("producer")
    if isinstance(producer, dict) and producer.get("name") == "modelopt":
        return True
    if settings:
        return str(settings.get("quant_method")) in ("modelopt", "modelopt_fp4")
    return any(name.endswith(SECOND) for name in arrays.parts)


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """Each packed weight with both scales."""
    companions = Companions(arrays, faults)
    for name, part in arrays.parts.items():
        tensor = None
        if name.endswith((SECOND, SCALE)):
            owner = name.removesuffix("_2").removesuffix(SCALE) + WEIGHT
            if owner not in arrays:
                companions.say(MISSING, name, f"'{name}' has no weight beside it", FETCH)
        elif name.endswith(WEIGHT) and part.dtype == "U8":
            tensor = _packed(name, companions)
        elif name.endswith(WEIGHT) and part.dtype == "F8_E4M3":
            tensor = _plain(name, companions)
        if tensor is not None:
            yield tensor


def _packed(name: str, companions: Companions) -> Tensor | None:
    codes = companions.find(name, name, ("U8",), (2,))
    scale = codes and companions.find(name, f"{name}_scale", ("F8_E4M3",), (2,))
    second = scale and one(name, f"{name}_scale_2", NVFP4, companions)
    if codes is None or scale is None or second is None:
        return None
    return companions.tensor(name, (codes.shape[0], codes.shape[1] * 2), NVFP4, [codes, scale, second])


def _plain(name: str, companions: Companions) -> Tensor | None:
    codes = companions.find(name, name, ("F8_E4M3",), (2,))
    scale = codes and companions.find(name, f"{name}_scale", FLOATS, (0, 1, 2))
    if codes is None or scale is None:
        return None
    made = scaled(codes, scale, Scheme(), "modelopt", companions)
    return None if made is None else companions.tensor(name, codes.shape, made, [codes, scale])


layout = QuantisedLayout("ModelOpt NVFP4", recognises, fold)
