"""What Qwen 2 and 3 share: defaults, and which layers slide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures import _windows
from modelkit.architectures._contract import Config
from modelkit.architectures._huggingface_keys import Keys

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def windows(keys: Keys, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_types` where it stands, else all layers from max_window_layers on; nothing without use_sliding_window."""
    layers = fields["layers"]
    used = keys.get("use_sliding_window") and keys.get("sliding_window") is not None
    window = keys.whole("sliding_window") if used else None
    sliding = keys.layer_types(layers)
    if sliding is None:
        first = keys.get("max_window_layers")
        if type(first) is not int:
            raise keys.broken(f"max_window_layers is {first!r}, a whole number expected")
        sliding = tuple(window is not None and layer >= first for layer in range(layers))
    elif any(sliding) and window is None:
        raise keys.broken("layer_types has sliding layers, but no sliding_window is in use")
    return _windows.settled(window, sliding)


def window_keys(config: Config) -> dict[str, Any]:
    """Keys of config.json for `window` and `sliding`."""
    sliding = _windows.by_layer(config.sliding, config.layers, config.window)
    full = sliding.index(True) if any(sliding) else config.layers
    keys: dict[str, Any] = {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": full,
    }
    if sliding != (False,) * full + (True,) * (config.layers - full):
        keys["layer_types"] = _windows.layer_types(sliding)
    return keys
