"""FP8 as DeepSeek and Qwen publish it: e4m3 weights, and a scale for each block of 128 x 128.

    part                     dtype    of a weight [O, I] named PREFIX.weight
    PREFIX.weight            e4m3     [O, I]
    PREFIX.weight_scale_inv  f32      [ceil(O / 128), ceil(I / 128)]; the last blocks may be short
                             or e8m0  powers of two in a byte

value = weight * weight_scale_inv: it is multiplied, whatever its name says. Scales may lie in another file than their
weight. Files with one weight_scale for a tensor or for each row (quant_method fp8 of old) are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, FLOATS, Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._ct_floats import POWERS, scaled
from modelkit.layouts._ct_schemes import Scheme, block
from modelkit.layouts._module_names import names
from modelkit.layouts._rules import MISSING
from modelkit.tensors import Tensor

INVERSE, SCALE, WEIGHT = ".weight_scale_inv", ".weight_scale", ".weight"


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By the config's method; without a config by scales with their name."""
    if settings:
        return bool(settings.get("quant_method") == "fp8")
    return any(name.endswith(INVERSE) for name in arrays.parts)


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """Each e4m3 weight with its scales; what the config says is not converted may be without."""
    companions = Companions(arrays, faults)
    said = Scheme(block=block(settings.get("weight_block_size")))
    left = names(settings.get("modules_to_not_convert") or settings.get("ignored_layers"))
    for name, part in arrays.parts.items():
        module = name.removesuffix(WEIGHT)
        if name.endswith((INVERSE, SCALE)):
            owner = name.removesuffix(INVERSE).removesuffix(SCALE) + WEIGHT
            if owner not in arrays:
                companions.say(MISSING, name, f"'{name}' has no weight beside it", FETCH)
        elif name.endswith(WEIGHT) and part.dtype == "F8_E5M2" and f"{name}_scale_inv" in arrays:
            companions.mismatch(
                name, f"'{name}' is F8_E5M2; weights with scales are read as F8_E4M3", "convert another copy"
            )
        elif name.endswith(WEIGHT) and part.dtype == "F8_E4M3" and (not left.match(module) or _is_scaled(arrays, name)):
            tensor = _weight(name, said, companions)
            if tensor is not None:
                yield tensor


def _is_scaled(arrays: Arrays, name: str) -> bool:
    return f"{name}_scale" in arrays or f"{name}_scale_inv" in arrays


def _weight(name: str, said: Scheme, companions: Companions) -> Tensor | None:
    codes = companions.find(name, name, ("F8_E4M3",), (2,))
    plain = f"{name}_scale" in companions.arrays and f"{name}_scale_inv" not in companions.arrays
    owned, dtypes = (f"{name}_scale", FLOATS) if plain else (f"{name}_scale_inv", (*FLOATS, *POWERS))
    scale = codes and companions.find(name, owned, dtypes, (0, 1, 2))
    if codes is None or scale is None:
        return None
    scheme = replace(said, block=None) if plain else replace(said, strategy="block")
    made = scaled(codes, scale, scheme, "fp8", companions)
    return None if made is None else companions.tensor(name, codes.shape, made, [codes, scale])


layout = QuantisedLayout("FP8 blocks", recognises, fold)
