"""What Gemma 2 and 3 share: defaults, scales, and which layers slide."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

from modelkit.architectures import _windows
from modelkit.architectures._contract import Config
from modelkit.architectures._huggingface_keys import Keys, attention_bias
from modelkit.errors import Unsupported

SAYS = ("bias", "embedding_scale", "score_scale", "sliding", "window")
DEFAULTS = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def scales(keys: Keys) -> dict[str, Any]:
    """`score_scale`, `embedding_scale` and the biases."""
    scalar = keys.real("query_pre_attn_scalar")
    return {
        "score_scale": None if scalar == keys.whole("head_dim") else scalar**-0.5,
        "embedding_scale": keys.whole("hidden_size") ** 0.5,
        "bias": keys.biases("attention"),
    }


def windows(keys: Keys, fields: Mapping[str, Any], period: int) -> dict[str, Any]:
    """`layer_types` where it stands, else every `period`-th layer sees everything."""
    layers, local_theta = fields["layers"], fields.get("local_theta")
    sliding = keys.layer_types(layers) or _windows.periodic(layers, period)
    if not any(sliding):
        return _windows.settled(None, sliding)
    if keys.get("sliding_window") is None:
        raise keys.broken("layers slide, but sliding_window is null")
    return _windows.settled(keys.whole("sliding_window"), sliding, local_theta)


def keys(config: Config, period: int) -> dict[str, Any]:
    """Keys of config.json for what `scales` and `windows` read; the pattern where it is not the usual one."""
    scalar = config.head_dim if config.score_scale is None else round(config.score_scale**-2)
    if config.score_scale is not None and not isclose(scalar**-0.5, config.score_scale, rel_tol=1e-6):
        raise Unsupported(f"config.json says the scale of scores by a whole number: {config.score_scale} is none")
    sliding = _windows.by_layer(config.sliding, config.layers, config.window)
    return {
        "attention_bias": attention_bias(config),
        "query_pre_attn_scalar": scalar,
        "sliding_window": config.window or DEFAULTS["sliding_window"],  # null would not load
        **(
            {"layer_types": _windows.layer_types(sliding)}
            if sliding != _windows.periodic(config.layers, period)
            else {}
        ),
    }
