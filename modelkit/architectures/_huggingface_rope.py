"""Rotary keys of config.json: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of 4.

Where both stand, `rope_scaling` counts, and an `original_max_position_embeddings` beside it counts before one
within: as transformers 5 has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures import _rope
from modelkit.architectures._huggingface_keys import Keys

ORIGINAL = "original_max_position_embeddings"
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": (),
}
FOREIGN: Mapping[str, tuple[object, ...]] = {
    "alpha": (),
    "mrope_section": (),
    "extrapolation_factor": (1,),
    "attn_factor": (1,),
}
"""Keys of other programs' scalings, and the values that change nothing."""


def flat(keys: Keys, scalings: tuple[str, ...], context: int, head_dim: int) -> dict[str, Any]:
    """One rope for all layers: the Config's `theta`, `rope` and `rotary`."""
    found = keys.mapping("rope_scaling") or keys.mapping("rope_parameters")
    theta = found.get("rope_theta")
    if "full_attention" in found or "sliding_attention" in found:
        raise keys.unsupported("a rope for each type of layer")
    part = found.get("partial_rotary_factor", keys.get("partial_rotary_factor"))
    rotary = head_dim if part is None else int(head_dim * keys.number("partial_rotary_factor", part))
    if part not in (None, 1) and "partial_rotary_factor" not in keys.defaults:
        raise keys.unsupported(f"partial_rotary_factor is {part!r}")
    if not 0 < rotary <= head_dim or rotary % 2:
        raise keys.broken(f"partial_rotary_factor {part!r} makes {rotary} of {head_dim} dimensions rotate")
    return {
        "theta": keys.real("rope_theta", 10000.0) if theta is None else keys.number("rope_theta", theta),
        "rope": scaling(keys, found, scalings, context, rotary),
        "rotary": None if rotary == head_dim else rotary,
    }


def scaling(
    keys: Keys, found: Mapping[str, Any], scalings: tuple[str, ...], context: int, rotary: int
) -> dict[str, Any]:
    """The settled scaling; types that the family does not have are refused by name."""
    kind = found.get("rope_type") or found.get("type") or "default"
    for key, neutral in FOREIGN.items():
        if found.get(key) is not None and found[key] not in neutral:
            raise keys.unsupported(f"rope scaling '{kind}' with {key} {found[key]!r}")
    if kind == "default":
        return {}
    if kind not in scalings:
        raise keys.unsupported(f"rope type '{kind}'", "its rope types are: " + ", ".join(("default", *scalings)))
    missing = [key for key in NEEDED[kind] if key not in found]
    if missing:
        raise keys.broken(f"rope scaling '{kind}' lacks {', '.join(missing)}")
    rope: dict[str, Any] = {"rope_type": kind}
    if kind in ("llama3", "yarn", "longrope"):
        stated = keys.get(ORIGINAL)
        stated = found.get(ORIGINAL) if stated is None else stated
        rope[ORIGINAL] = context if stated is None else keys.count(ORIGINAL, stated)
    if kind == "longrope":
        rope |= _longrope(keys, found, rope[ORIGINAL], rotary)
    elif kind == "yarn":
        rope |= _yarn(keys, found, context / rope[ORIGINAL])
    else:
        rope |= {key: keys.number(key, found[key]) for key in NEEDED[kind]}
    return _rope.settled(rope, context)


def _yarn(keys: Keys, found: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """`ratio` stands for a null factor. mscale and mscale_all_dim are turned into the attention factor."""
    factor = ratio if found["factor"] is None else keys.number("factor", found["factor"])
    rope: dict[str, Any] = {"factor": factor}
    for key in _rope.BETAS:
        if found.get(key):  # null and 0 mean the usual value
            rope[key] = keys.number(key, found[key])
    one, other = found.get("mscale"), found.get("mscale_all_dim")
    if found.get("attention_factor") is not None:
        rope["attention_factor"] = keys.number("attention_factor", found["attention_factor"])
    elif one and other:
        scales = keys.number("mscale", one), keys.number("mscale_all_dim", other)
        rope["attention_factor"] = _rope.growth(factor, scales[0]) / _rope.growth(factor, scales[1])
    if found.get("truncate", True) is not True:
        rope["truncate"] = bool(found["truncate"])
    return rope


def _longrope(keys: Keys, found: Mapping[str, Any], original: int, rotary: int) -> dict[str, Any]:
    rope: dict[str, Any] = {
        key: keys.numbers(key, found.get(key), rotary // 2) for key in ("short_factor", "long_factor")
    }
    if found.get("attention_factor") is not None:
        rope["attention_factor"] = keys.number("attention_factor", found["attention_factor"])
    elif found.get("factor") is not None:
        rope["attention_factor"] = _rope.lengthening(keys.number("factor", found["factor"]), original)
    return rope
