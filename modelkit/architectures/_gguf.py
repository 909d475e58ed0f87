"""GGUF key-values of a decoder, to and from Config.

Keys begin with the architecture's name. What they cannot say is kept under `modelkit.` keys, so that
modelkit's own round trip loses nothing: the original config.json as JSON text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from modelkit.architectures._contract import Codec, Config, Facts, Probe
from modelkit.architectures._rope_freqs import NAME, infer
from modelkit.errors import BrokenFile, Unsupported

KEPT_CONFIG = "modelkit.huggingface.config"
FIX = "fetch the file again, or write it with a current converter"


def codec(name: str) -> Codec:
    """The codec of the GGUF architecture `name`."""
    return Codec(
        lambda facts: facts.get("general.architecture"),
        lambda facts, probe: read(name, facts, probe),
        lambda config: write(name, config),
    )


def read(name: str, facts: Facts, probe: Probe) -> Config:
    """Hyper-parameters from the keys; `rope_freqs.weight` is turned back into its four numbers."""
    heads = _whole(facts, f"{name}.attention.head_count")
    hidden = _whole(facts, f"{name}.embedding_length")
    head_dim = _whole(facts, f"{name}.attention.key_length", hidden // heads)
    theta = shortest(facts.get(f"{name}.rope.freq_base", 10000.0))
    original = _kept(facts)
    tokens = facts.get("tokenizer.ggml.tokens") or ()
    return Config(
        context=_whole(facts, f"{name}.context_length"),
        hidden=hidden,
        feed_forward=_whole(facts, f"{name}.feed_forward_length"),
        layers=_whole(facts, f"{name}.block_count"),
        heads=heads,
        kv_heads=_whole(facts, f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=int(facts.get(f"{name}.vocab_size") or len(tokens)),
        eps=shortest(facts.get(f"{name}.attention.layer_norm_rms_epsilon", 1e-5)),
        theta=theta,
        tied=False,  # the tensors say it: a tied model has no output.weight
        rope=_rope(name, facts, probe, theta, head_dim, original),
        window=original.get("sliding_window"),
        name=str(facts.get("general.name") or ""),
        original=original,
    )


def write(name: str, config: Config) -> dict[str, Any]:
    """Keys as llama.cpp's converter writes them, and the kept config.json."""
    if config.rope.get("rope_type") not in (None, "linear", "llama3"):
        raise Unsupported(f"GGUF {name} has no keys for rope type '{config.rope['rope_type']}'")
    keys: dict[str, Any] = {
        "general.architecture": name,
        "general.type": "model",
        "general.name": config.name or name,
        f"{name}.block_count": config.layers,
        f"{name}.context_length": config.context,
        f"{name}.embedding_length": config.hidden,
        f"{name}.feed_forward_length": config.feed_forward,
        f"{name}.attention.head_count": config.heads,
        f"{name}.attention.head_count_kv": config.kv_heads,
        f"{name}.rope.freq_base": float(config.theta),
        f"{name}.attention.layer_norm_rms_epsilon": float(config.eps),
        f"{name}.attention.key_length": config.head_dim,
        f"{name}.attention.value_length": config.head_dim,
        f"{name}.vocab_size": config.vocabulary,
        f"{name}.rope.dimension_count": config.head_dim,
    }
    if config.rope.get("rope_type") == "linear":
        keys |= {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": float(config.rope["factor"])}
    if config.original:
        keys[KEPT_CONFIG] = json.dumps(config.original, separators=(",", ":"), ensure_ascii=False)
    return keys


def shortest(value: Any) -> float:
    """The shortest decimal that is the same float32: 1e-05 was written, 9.99999974e-06 is read."""
    number = float(value)
    for digits in range(1, 9):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", number):
            return short
    return number


def _kept(facts: Facts) -> dict[str, Any]:
    try:
        kept = json.loads(facts.get(KEPT_CONFIG, "{}"))
    except (ValueError, TypeError, RecursionError):
        raise BrokenFile(f"key '{KEPT_CONFIG}' is not JSON", FIX, "config-not-json") from None
    return kept if isinstance(kept, dict) else {}


def _rope(
    name: str, facts: Facts, probe: Probe, theta: float, head_dim: int, original: Mapping[str, Any]
) -> dict[str, Any]:
    kind = facts.get(f"{name}.rope.scaling.type") or "none"
    data = probe(NAME)
    if data is not None:
        kept = original.get("rope_scaling") or original.get("rope_parameters") or {}
        found = infer(data, theta, head_dim, kept if isinstance(kept, dict) else {})
        if found is None:
            message = f"'{NAME}' is no llama3 scaling: no four numbers reproduce it"
            raise Unsupported(
                f"unsupported architecture {name}: {message}", "convert to GGUF, where the tensor is carried"
            )
        return found
    if kind == "none":
        return {}
    if kind != "linear":
        raise Unsupported(f"unsupported architecture {name}: rope type '{kind}'", "linear and llama3 can be converted")
    return {"rope_type": "linear", "factor": shortest(facts.get(f"{name}.rope.scaling.factor", 1.0))}


def _whole(facts: Facts, key: str, default: int | None = None) -> int:
    value = facts.get(key, default)
    if type(value) is not int or value <= 0:
        found = "absent" if value is None else repr(value)
        raise BrokenFile(f"key '{key}' is {found}, a positive whole number expected", FIX, "missing-key")
    return value
