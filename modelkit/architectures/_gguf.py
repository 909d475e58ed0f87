"""GGUF key-values of a decoder, to and from Config.

Keys begin with the architecture's name; what they leave unsaid is its `Convention`. What they cannot say is kept
under `modelkit.` keys, so that modelkit's own round trip loses nothing: the original config.json as JSON text.
It is believed field by field, wherever the keys are those that it would give.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelkit.architectures import _gguf_convention, _gguf_rope, _huggingface
from modelkit.architectures._contract import Codec, Config, Facts, Probe
from modelkit.architectures._gguf_convention import Convention
from modelkit.architectures._gguf_keys import FIX, MOST, Keys
from modelkit.architectures._huggingface import Family
from modelkit.errors import BrokenFile, Unsupported

FOLDER = "convert into a Hugging Face folder (end the name in a slash): it keeps the config as it is"
KEPT_CONFIG = "modelkit.huggingface.config"


def codec(name: str, own: Convention | None = None, families: tuple[Family, ...] = ()) -> Codec:
    """The codec of the GGUF architecture `name`; `families` read the kept config.json."""
    convention = own or Convention()
    return Codec(
        lambda facts: facts.get("general.architecture"),
        lambda facts, probe: read(name, convention, families, facts, probe),
        lambda config: write(name, convention, config),
        lambda config: _gguf_convention.notes(convention, config),
    )


def read(name: str, own: Convention, families: tuple[Family, ...], facts: Facts, probe: Probe) -> Config:
    """Hyper-parameters from the keys, and from the kept config.json what they cannot say."""
    original = _kept(facts)
    family = next((one for one in families if one.model_type == original.get("model_type")), None)
    if family is None:
        return replace(_stated(name, own, facts, probe, {}), original={} if families else original)
    known = _huggingface.read(family, {"config": original}, probe)
    stated = _stated(name, own, facts, probe, known.rope)
    derived = {key: data for key, (_, data) in _gguf_rope.tensors(known, "gguf").items()}
    echo = _stated(name, own, _as_read(write(name, own, known)), derived.get, known.rope)
    believed = {
        field: getattr(known, field)
        for field in Config.__slots__
        if field not in ("name", "original") and getattr(stated, field) == getattr(echo, field)
    }
    return replace(stated, original=original, **believed)


def _stated(name: str, own: Convention, facts: Facts, probe: Probe, kept: Mapping[str, Any]) -> Config:
    """What keys, tensors and convention say. `kept` is a rope that decides between equal readings."""
    keys = Keys(name, facts)
    keys.refuse_other_arithmetic()
    heads, hidden = keys.whole("attention.head_count"), keys.whole("embedding_length")
    layers, context = keys.whole("block_count", most=MOST), keys.whole("context_length")
    head_dim = keys.whole("attention.key_length", hidden // heads or None, MOST)
    rotary = _rotary(keys, own, head_dim)
    theta = keys.real("rope.freq_base", 10000.0)
    tokens = facts.get("tokenizer.ggml.tokens") or ()
    scales = head_dim**-0.5, max(hidden // heads, 1) ** -0.5
    return Config(
        context=context,
        hidden=hidden,
        feed_forward=keys.whole("feed_forward_length"),
        layers=layers,
        heads=heads,
        kv_heads=keys.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=keys.whole("vocab_size", len(tokens) or 1),  # the rows of the embedding say it better
        eps=keys.real("attention.layer_norm_rms_epsilon"),
        theta=theta,
        tied=False,  # the tensors say it: a tied model has no output.weight
        rope=_gguf_rope.read(keys, probe, own.scalings, theta, rotary, context, kept),
        rotary=None if rotary == head_dim else rotary,
        activation=own.activation,
        embedding_scale=hidden**0.5 if own.scaled_embedding else 1.0,
        bias=own.bias,
        name=str(facts.get("general.name") or ""),
        **_gguf_convention.read(keys, own, layers, scales),
    )


def _rotary(keys: Keys, own: Convention, head_dim: int) -> int:
    rotary = keys.whole("rope.dimension_count", head_dim)
    if keys.whole("attention.value_length", head_dim) != head_dim:
        raise keys.unsupported(f"attention.value_length is {keys.get('attention.value_length')}, not {head_dim}")
    if rotary != head_dim and not own.partial:
        raise keys.unsupported(f"rope.dimension_count is {rotary}, heads have {head_dim} dimensions")
    if head_dim % 2 or rotary % 2 or rotary > head_dim:
        raise keys.broken(f"{rotary} of {head_dim} dimensions of a head rotate")
    return rotary


def write(name: str, own: Convention, config: Config) -> dict[str, Any]:
    """Keys as llama.cpp's converter writes them, and the kept config.json."""
    kind = config.rope.get("rope_type")
    if kind is not None and kind not in own.scalings:
        raise Unsupported(f"GGUF {name} has no keys for rope type '{kind}'", FOLDER)
    if config.activation != own.activation:
        raise Unsupported(f"GGUF {name} always has the activation {own.activation}, not {config.activation}", FOLDER)
    if not (config.tied or own.own_head):
        raise Unsupported(f"GGUF {name} has no place for an output matrix of its own", FOLDER)
    for field in own.always:
        if getattr(config, field) is None:
            raise Unsupported(f"GGUF {name} has no form for a model without {field.replace('_', ' ')}", FOLDER)
    keys: dict[str, Any] = {
        "block_count": config.layers,
        "context_length": config.context,
        "embedding_length": config.hidden,
        "feed_forward_length": config.feed_forward,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "rope.freq_base": float(config.theta),
        "attention.layer_norm_rms_epsilon": float(config.eps),
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "vocab_size": config.vocabulary,
        "rope.dimension_count": config.rotary or config.head_dim,
        **_gguf_rope.write(config),
        **_gguf_convention.write(own, config),
    }
    general = {"general.architecture": name, "general.type": "model", "general.name": config.name or name}
    kept = json.dumps(config.original, separators=(",", ":"), ensure_ascii=False)
    named = {f"{name}.{key}": value for key, value in keys.items()}
    return general | named | ({KEPT_CONFIG: kept} if config.original else {})


def _as_read(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Floats rounded to float32, as a file gives them back."""
    single = struct.Struct("<f")
    return {key: single.unpack(single.pack(v))[0] if isinstance(v, float) else v for key, v in keys.items()}


def _kept(facts: Facts) -> dict[str, Any]:
    try:
        kept = json.loads(facts.get(KEPT_CONFIG, "{}"))
    except (ValueError, TypeError, RecursionError):
        raise BrokenFile(f"key '{KEPT_CONFIG}' is not JSON", FIX, "config-not-json") from None
    return kept if isinstance(kept, dict) else {}
