"""What llama.cpp takes for granted about an architecture: windows, caps and scales that keys need not say.

    attention.sliding_window          0: no layer slides
    attention.sliding_window_pattern  a period (`_windows.py`), or a flag for each layer, which few engines read
    rope.freq_base_swa                theta of sliding layers
    attn_logit_softcapping            0: none
    final_logit_softcapping
    attention.scale                   of scores; llama.cpp does not read it here

The convention is not written; what departs from it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isclose
from typing import Any

from modelkit.architectures import _gguf_rope, _windows
from modelkit.architectures._contract import Activation, Config
from modelkit.architectures._gguf_keys import Keys

WINDOW, PATTERN, SCALE = "attention.sliding_window", "attention.sliding_window_pattern", "attention.scale"
LOCAL_THETA = "rope.freq_base_swa"
CAPS = {"score_softcap": "attn_logit_softcapping", "logit_softcap": "final_logit_softcapping"}


@dataclass(frozen=True)
class Convention:
    """Where an architecture departs from plain Llama. Model sizes that llama.cpp tells by their layers: `wide`."""

    scalings: tuple[str, ...] = ("linear", "dynamic", "yarn")
    activation: Activation = "silu"
    period: int = 0  # every period-th layer sees everything; 0: engines know no windows
    states_window: bool = False  # the key is there even where no layer slides
    window: Callable[[Keys], int | None] = lambda keys: None  # of a file without the key
    local_theta: float | None = None
    caps: Mapping[str, float | None] = field(default_factory=dict)  # it has; of a file without the keys
    wide: int = 0  # with so many layers, scores are scaled by (hidden / heads) ** -0.5; 0: always by the head size
    scaled_embedding: bool = False  # by hidden ** 0.5
    bias: tuple[str, ...] = ()  # which are always there
    partial: bool = False  # a head may rotate in part
    own_head: bool = True  # the output matrix may be another than the embedding
    output_bias: bool = False  # engines know attn_output.bias
    always: tuple[str, ...] = ()  # Config fields without which engines stop with an error


def read(keys: Keys, own: Convention, layers: int, score_scale: tuple[float, float]) -> dict[str, Any]:
    """The Config's fields. `score_scale` is that of plain Llama and that of a wide model."""
    scale = keys.real(SCALE, score_scale[layers == own.wide])
    if not own.wide and not isclose(scale, score_scale[0], rel_tol=1e-6):
        raise keys.unsupported(f"{SCALE} is {scale}")
    for name, key in CAPS.items():
        if name not in own.caps and keys.cap(key, None):
            raise keys.unsupported(f"{key} is {keys.get(key)}")
    return {
        **_read_windows(keys, own, layers),
        **{name: keys.cap(key, own.caps.get(name)) for name, key in CAPS.items()},
        "score_scale": None if isclose(scale, score_scale[0], rel_tol=1e-6) else scale,
    }


def _read_windows(keys: Keys, own: Convention, layers: int) -> dict[str, Any]:
    stated, pattern = keys.get(WINDOW), keys.get(PATTERN)
    window = own.window(keys) if stated is None else None if stated == 0 else keys.whole(WINDOW)
    if isinstance(pattern, list):
        if len(pattern) != layers:
            raise keys.broken(f"key '{keys.name}.{PATTERN}' does not name {layers} layers")
        sliding = tuple(bool(one) for one in pattern)
    else:
        period = own.period if pattern is None else 0 if pattern == 0 else keys.whole(PATTERN)
        sliding = _windows.periodic(layers, period)
    local = own.local_theta if keys.get(LOCAL_THETA) is None else keys.real(LOCAL_THETA)
    if own.local_theta is None and local not in (None, keys.real("rope.freq_base", 10000.0)):
        raise keys.unsupported(f"{LOCAL_THETA} is {local}, another than rope.freq_base")
    local = None if own.local_theta is None else local
    return _windows.settled(window, sliding, local)


def write(own: Convention, config: Config) -> dict[str, Any]:
    """The keys, without the architecture's name before them."""
    keys: dict[str, Any] = {}
    if config.window is not None or own.states_window:
        keys[WINDOW] = config.window or 0
    sliding = _windows.by_layer(config.sliding, config.layers, config.window)
    if (config.window is not None or own.period) and sliding != _windows.periodic(config.layers, own.period):
        period = _windows.period_of(sliding)
        keys[PATTERN] = list(sliding) if period is None else period
    if config.local_theta is not None:
        keys[LOCAL_THETA] = float(config.local_theta)
    for name, key in CAPS.items():
        cap = getattr(config, name)
        if cap is not None or own.caps.get(name) is not None:
            keys[key] = float(cap or 0.0)
    plain = config.head_dim**-0.5
    usual = (config.hidden // config.heads) ** -0.5 if config.layers == own.wide else plain
    if (config.score_scale or plain) != usual:
        keys[SCALE] = config.score_scale or plain
    return keys


def notes(own: Convention, config: Config) -> list[str]:
    """What llama.cpp will not do as the config has it."""
    found = _gguf_rope.notes(config)
    keys = write(own, config)
    if not own.period and config.window is not None and config.window < config.context:
        found.append(f"llama.cpp does not apply the sliding window of {config.window:,} positions (modelkit keeps it)")
    if own.period and isinstance(keys.get(PATTERN), list):
        found.append("which layers slide follows no period: of llama.cpp, only recent versions read such a list")
    if "output" in config.bias and not own.output_bias:
        found.append("llama.cpp knows no attn_output.bias of this architecture and will not load the file")
    if SCALE in keys:
        found.append(f"llama.cpp does not read the scale of attention scores, {keys[SCALE]:.6g} (modelkit keeps it)")
    return found
