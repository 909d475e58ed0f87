"""From a model as its headers say it to its weights: is it quantised, what does its config say, what does that mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelkit.faults import Faults
from modelkit.sources import Disk, Opener
from modelkit.tensors import Model

if TYPE_CHECKING:
    from modelkit.layouts._contract import Settings
    from modelkit.layouts._folding import Folded

KEYS = ("quantization_config", "quantization", "compression_config")
"""Where a config.json speaks of quantisation: Hugging Face, MLX, compressed-tensors of old."""

FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files beside it that do the same: AutoGPTQ, AutoAWQ, ModelOpt."""

TELLING = (
    ".qweight", ".scales", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".absmax",
    ".SCB", ".W_q", "_blocks", "_scales", ".weight.scale",
)  # fmt: skip
"""Endings of arrays that only quantised layouts have."""

STATE = ".quant_state.bitsandbytes__"
"""What such a name of bitsandbytes has inside."""


def quantisation(config: Mapping[str, Any]) -> Settings:
    """What a config says about it; {} for nothing. MLX goes by `quantization` where both of its places are there."""
    usual = config.get(KEYS[0])
    for key in KEYS if isinstance(usual, dict) and "quant_method" in usual else (KEYS[1], KEYS[0], KEYS[2]):
        found = config.get(key)
        if isinstance(found, dict) and found:
            return found
    inner = config.get("text_config")
    return quantisation(inner) if isinstance(inner, dict) else {}


def may_be_quantised(model: Model, opener: Opener) -> bool:
    """Whether names of arrays or the config look like it: an ordinary model is not held against any layout.

    What lies behind a URL is shown as it is stored: telling layouts apart takes many small reads.
    """
    if not isinstance(opener, Disk):
        return False
    named = any(tensor.name.endswith(TELLING) or STATE in tensor.name for tensor in model.tensors)
    return named or bool(settings_of(model, opener))


def folded_model(model: Model, opener: Opener, faults: Faults) -> Folded:
    """The arrays of a quantised layout as the weights that they mean; any other model as it is."""
    from modelkit.layouts._folding import fold

    return fold(model, opener, settings_of(model, opener), faults)


def settings_of(model: Model, opener: Opener) -> Mapping[str, Any]:
    """What the config says about quantisation: of the folder, of the file's own metadata, or from beside it."""
    from modelkit.formats._side_files import parse_json, read_json

    quiet = Faults(strict=False)
    config = model.metadata.get("config")
    embedded = model.metadata.get("modelkit.config")
    if isinstance(embedded, str):
        config = parse_json(embedded.encode("utf-8", "surrogateescape"), "modelkit.config", quiet)
    elif config is None and opener.holds("config.json"):
        config = read_json(opener, "config.json", quiet)
    found = quantisation(config) if isinstance(config, dict) else {}
    for name in FILES:
        if not found and opener.holds(name):
            beside = read_json(opener, name, quiet)
            found = beside if isinstance(beside, dict) else {}
    return found
