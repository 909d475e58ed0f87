"""config.json of Hugging Face, old and new keys, to and from Config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures._contract import Codec, Config, Facts, Probe
from modelkit.errors import BrokenFile, Unsupported

FIX = "fetch the model's own config.json again"
ROPE_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SCALINGS = {"linear": ROPE_KEYS[:1], "llama3": ROPE_KEYS}
CONTEXT = {"llama": 2048, "mistral": 131072}  # transformers' own defaults for absent keys
WINDOW = {"mistral": 4096}


def codec() -> Codec:
    return Codec(lambda facts: facts["config"].get("model_type"), read, write)


def read(facts: Facts, probe: Probe) -> Config:
    """Hyper-parameters from config.json; absent keys mean what transformers means by their absence."""
    config: Mapping[str, Any] = facts["config"]
    family = config["model_type"]
    heads = _whole(config, "num_attention_heads")
    hidden = _whole(config, "hidden_size")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise Unsupported(f"unsupported architecture {family}: activation '{activation}'", "silu is what llama has")
    rope = _rope(config)
    biased = [name for name in ("attention", "mlp") if config.get(f"{name}_bias")]
    return Config(
        context=_whole(config, "max_position_embeddings", CONTEXT.get(family, 2048)),
        hidden=hidden,
        feed_forward=_whole(config, "intermediate_size"),
        layers=_whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_dim=_whole(config, "head_dim", hidden // heads),
        vocabulary=_whole(config, "vocab_size"),
        eps=float(config.get("rms_norm_eps", 1e-6)),
        theta=_theta(config),
        tied=bool(config.get("tie_word_embeddings", False)),
        rope=rope,
        window=config.get("sliding_window", WINDOW.get(family)),
        bias=tuple(biased),
        name=str(config.get("_name_or_path") or ""),
        original=config,
    )


def write(config: Config) -> dict[str, Any]:
    """{"config": config.json}. What the original config says and Config does not know is kept."""
    family = config.original.get("model_type", "llama")
    if config.window is not None and family == "llama":
        family = "mistral"
    settings: dict[str, Any] = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "attention_bias": "attention" in config.bias,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.context,
        "mlp_bias": "mlp" in config.bias,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.eps,
        "rope_scaling": dict(config.rope) or None,
        "rope_theta": config.theta,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
    }
    if family == "mistral":
        settings = {k: v for k, v in settings.items() if not k.endswith("_bias")} | {"sliding_window": config.window}
    if config.original and same(read({"config": config.original}, lambda name: None), config):
        return {"config": dict(config.original)}
    if "rope_parameters" in config.original:
        settings["rope_parameters"] = {"rope_theta": config.theta, **(config.rope or {"rope_type": "default"})}
        del settings["rope_theta"], settings["rope_scaling"]
    return {"config": {**config.original, **settings}}


def same(one: Config, other: Config) -> bool:
    """Whether two configs mean the same model; names and origins aside."""
    fields = [name for name in Config.__slots__ if name not in ("original", "name", "bias", "window")]
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _theta(config: Mapping[str, Any]) -> float:
    new = config.get("rope_parameters") or {}
    return float(new.get("rope_theta") or config.get("rope_theta") or 10000.0)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling in transformers' present words, {} for none; unknown types are refused by name."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return {}
    if kind not in SCALINGS:
        family = config.get("model_type")
        fix = "the types that can be converted are: default, " + ", ".join(SCALINGS)
        raise Unsupported(f"unsupported architecture {family}: rope type '{kind}'", fix)
    missing = [key for key in SCALINGS[kind] if not isinstance(found.get(key), int | float)]
    if missing:
        raise BrokenFile(f"config.json: rope scaling '{kind}' lacks {', '.join(missing)}", FIX, "config-shape-mismatch")
    return {"rope_type": kind, **{key: found[key] for key in SCALINGS[kind]}}


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value <= 0:
        raise BrokenFile(
            f"config.json: {key} is {value!r}, a positive whole number expected", FIX, "config-shape-mismatch"
        )
    return value
