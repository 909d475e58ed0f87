"""compressed-tensors in a Hugging Face folder: what vLLM, SGLang, transformers and llm-compressor call so.

What is stored decides; the config settles what shapes leave open, and what contradicts it is a fault. The bytes of a
weight are described in `encodings/compressed_tensors.py`.

Experts are read where each has matrices of its own, as llm-compressor writes them. Experts that lie stacked in one
array (three dimensions, or names such as `gate_up_proj_packed`) are refused, as there is no one form: scripts leave out
weight_shape or do not, keep one global scale or one for each expert, and join names by a dot or an underscore.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.encodings.compressed_tensors import encoding
from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.layouts import _ct_floats, _ct_integers
from modelkit.layouts._companions import FETCH, Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._ct_config import config
from modelkit.layouts._ct_schemes import METHOD, refuse, schemes
from modelkit.layouts._rules import MISMATCH, MISSING
from modelkit.tensors import Part, Tensor

PACKED, PLAIN, SCALE = "weight_packed", "weight", "weight_scale"


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By the config's method; without a config by its arrays."""
    if settings:
        return bool(settings.get("quant_method", METHOD if "config_groups" in settings else None) == METHOD)
    plain = (name for name, part in arrays.parts.items() if _ends(name, PLAIN) and part.dtype in ("I8", "F8_E4M3"))
    return any(_ends(name, PACKED) for name in arrays.parts) or any(f"{name}_scale" in arrays for name in plain)


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """Each packed weight with its companions.

    Raises Unsupported for formats whose weights mean nothing alone, and for experts that lie stacked in one array.
    """
    refuse(settings)
    companions, known = Companions(arrays, faults), schemes(settings)
    for pattern in (*known.ignored.refused, *(one for targets, _ in known.groups for one in targets.refused)):
        message = f"the pattern 're:{pattern[:80]}' may run for years: it is not tried, and matches nothing"
        faults.add(MISMATCH, "config.json", message, "name the modules instead", severity="warning")
    for name, part in arrays.parts.items():
        _refuse_stacks(name, part, arrays)
        if _ends(name, SCALE):
            stem = name.removesuffix(SCALE)
            if stem + PACKED not in arrays and stem + PLAIN not in arrays:
                companions.say(MISSING, name, f"'{name}' has no weight beside it", FETCH)
            continue
        tensor = None
        stem = name.removesuffix(PACKED if _ends(name, PACKED) else PLAIN)
        scheme = known.of(stem.removesuffix("."))
        if _ends(name, PACKED):
            tensor = (_ct_floats if part.dtype == "U8" else _ct_integers).packed(stem, scheme, companions)
        elif _ends(name, PLAIN) and part.dtype == "I8":
            tensor = _ct_integers.plain(stem, scheme, companions)
        elif _ends(name, PLAIN) and part.dtype == "F8_E4M3" and (scheme.number or stem + SCALE in arrays):
            tensor = _ct_floats.plain(stem, scheme, companions)
        if tensor is not None:
            yield tensor


def _refuse_stacks(name: str, part: Part, arrays: Arrays) -> None:
    """Whatever else has codes and scales must not pass for the floats that it is not."""
    small = part.dtype in ("I8", "F8_E4M3")
    if _ends(name, PACKED) or _ends(name, PLAIN):
        stacked = len(part.shape) > 2 and (_ends(name, PACKED) or (small and f"{name}_scale" in arrays))
    elif name.endswith("_packed"):
        stacked = name.removesuffix("_packed") + "_scale" in arrays
    else:
        stacked = small and f"{name}_scale" in arrays
    if stacked:
        message = f"'{name}' {list(part.shape)} holds several experts in one array, which is not read"
        raise Unsupported(message, "convert a copy in which each expert has its own weight_packed or weight")


def _ends(name: str, word: str) -> bool:
    return name == word or name.endswith(f".{word}")


layout = QuantisedLayout("compressed-tensors", recognises, fold, encoding, config, embeds=True)
