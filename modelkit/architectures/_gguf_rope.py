"""Rotary keys and tensors of GGUF.

    rope.freq_base, rope.freq_base_swa           theta, and that of sliding layers
    rope.dimension_count                         dimensions of a head that rotate
    rope.scaling.type                            none, linear, yarn; linear where absent
    rope.scaling.factor, rope.scale_linear       the second in old files
    rope.scaling.original_context_length
    rope.scaling.attn_factor                     multiplies cos and sin, beside what yarn does by itself
    rope.scaling.yarn_attn_factor                yarn's whole attention factor, as llama.cpp's converter writes it
    rope.scaling.yarn_beta_fast, _beta_slow, _ext_factor, _log_multiplier
    rope_freqs.weight                            llama3 (`_rope_freqs.py`)
    rope_factors_long.weight, _short.weight      longrope

llama.cpp computes yarn's attention factor from the scaling factor alone and then multiplies by attn_factor.
So both keys are written where a model has another one. `dynamic` has no keys: up to the context length it does
nothing, and beyond it engines do not scale.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from modelkit.architectures import _rope, _rope_freqs
from modelkit.architectures._contract import Config, Probe
from modelkit.architectures._gguf_keys import Keys, shortest
from modelkit.tensors import Shape

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FREQS, FACTORS = (r"rope_freqs\.weight",), (r"rope_factors_(long|short)\.weight",)
"""Patterns of tensors that follow from the config."""


def tensors(config: Config, dialect: str) -> Mapping[str, tuple[Shape, bytes]]:
    """The float32 tensors that GGUF makes of a scaling: name -> shape and bytes."""
    if dialect != "gguf":
        return {}
    rotary = config.rotary or config.head_dim
    if config.rope.get("rope_type") == "llama3":
        return {_rope_freqs.NAME: ((rotary // 2,), _rope_freqs.factors(config.rope, config.theta, rotary))}
    if config.rope.get("rope_type") == "longrope":
        lists = {LONG: config.rope["long_factor"], SHORT: config.rope["short_factor"]}
        return {name: ((len(one),), struct.pack(f"<{len(one)}f", *one)) for name, one in lists.items()}
    return {}


def write(config: Config) -> dict[str, Any]:
    """Keys of the scaling, without the architecture's name before them."""
    rope, kind = config.rope, config.rope.get("rope_type")
    factor = _rope.attention_factor(rope, config.context)
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor}
    if kind != "yarn":
        return {}
    keys: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(rope["factor"]),
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
    }
    if "attention_factor" in rope:
        keys["rope.scaling.yarn_attn_factor"] = factor
        keys["rope.scaling.attn_factor"] = factor / _rope.growth(rope["factor"])
    return keys | {f"rope.scaling.yarn_{key}": float(rope[key]) for key in _rope.BETAS if key in rope}


def read(
    keys: Keys,
    probe: Probe,
    scalings: tuple[str, ...],
    theta: float,
    rotary: int,
    context: int,
    kept: Mapping[str, Any],
) -> dict[str, Any]:
    """The settled scaling. `kept` is that of a kept config.json, which decides between equal readings."""
    kind = str(keys.get("rope.scaling.type") or "linear")
    factor = keys.cap("rope.scaling.factor", keys.cap("rope.scale_linear", None)) or 1.0  # 0: none
    factor = 1.0 if kind == "none" else factor
    rope: dict[str, Any] = {"rope_type": kind, "factor": factor} if kind in ("linear", "yarn") else {}
    if kind not in ("none", "linear", "yarn", "longrope") or (kind == "yarn" and kind not in scalings):
        raise keys.unsupported(f"rope type '{kind}'")
    freqs = probe(_rope_freqs.NAME) if "llama3" in scalings else None
    factors = {key: probe(name) for key, name in (("long_factor", LONG), ("short_factor", SHORT))}
    if "longrope" in scalings and any(factors.values()):
        rope = _longrope(keys, factors, rotary, context)
    elif freqs is not None:
        found = _rope_freqs.infer(freqs, theta, rotary, kept)
        if found is None:
            message = f"'{_rope_freqs.NAME}' is no llama3 scaling: no four numbers reproduce it"
            raise keys.unsupported(message, "convert to GGUF, where the tensor is carried")
        rope = found
    elif kind == "longrope":
        raise keys.broken(f"rope type 'longrope' without '{LONG}'")
    if factor != 1 and rope["rope_type"] not in ("linear", "yarn"):
        raise keys.unsupported(f"rope type '{rope['rope_type']}' with rope.scaling.factor {factor}")
    rope |= _yarn(keys, factor, context) if rope.get("rope_type") == "yarn" else {}
    stated = keys.real("rope.scaling.attn_factor", 1.0)
    if stated != 1 and rope.get("rope_type") not in ("yarn", "longrope"):
        raise keys.unsupported(f"rope.scaling.attn_factor is {stated} without yarn or longrope")
    return _rope.settled(rope, context)


def _yarn(keys: Keys, factor: float, context: int) -> dict[str, Any]:
    for key, usual in (("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)):
        value = keys.get(f"rope.scaling.{key}")
        if value not in (None, usual, -1):  # -1: not set
            raise keys.unsupported(f"rope.scaling.{key} is {value!r}")
    whole = keys.real("rope.scaling.attn_factor", 1.0) * _rope.growth(factor)
    return {
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length", context),
        "attention_factor": keys.real("rope.scaling.yarn_attn_factor", whole),
        **{key: keys.real(f"rope.scaling.yarn_{key}", usual) for key, usual in _rope.BETAS.items()},
    }


def _longrope(keys: Keys, factors: Mapping[str, bytes | None], rotary: int, context: int) -> dict[str, Any]:
    lists = {}
    for key, data in factors.items():
        numbers = struct.unpack(f"<{len(data) // 4}f", data) if data else ()
        if len(numbers) != rotary // 2 or not all(0 < one < 2**100 for one in numbers):
            raise keys.broken(f"longrope needs {rotary // 2} positive numbers in '{LONG}' and in '{SHORT}'")
        lists[key] = [shortest(one) for one in numbers]
    return {
        "rope_type": "longrope",
        **lists,
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length", context),
        "attention_factor": keys.real("rope.scaling.attn_factor", 1.0),
    }


def notes(config: Config) -> list[str]:
    """What engines will not do as the config has it."""
    kind = config.rope.get("rope_type")
    found = []
    if kind == "dynamic":
        found.append(
            f"GGUF has no dynamic rope scaling: engines compute the same up to {config.context:,} positions "
            "and do not scale beyond (modelkit keeps it)"
        )
    if config.rope.get("truncate") is False:
        found.append("GGUF cannot say that yarn's bounds are not rounded: engines round them (modelkit keeps it)")
    return found
