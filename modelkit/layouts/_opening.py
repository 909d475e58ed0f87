"""From a model as its headers say it to its weights: is it quantised, what does its config say, what does that mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.faults import Faults
from modelkit.layouts._folding import FILES, Folded, fold, quantisation
from modelkit.sources import Disk, Opener
from modelkit.tensors import Model

TELLING = (
    ".qweight", ".scales", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".absmax",
    ".SCB", ".W_q", "_blocks", "_scales", ".weight.scale",
)  # fmt: skip
"""Endings of arrays that only quantised layouts have."""


def may_be_quantised(model: Model, opener: Opener) -> bool:
    """Whether names of arrays look like it: an ordinary model is not held against any layout.

    What lies behind a URL is shown as it is stored: telling layouts apart takes many small reads.
    """
    return isinstance(opener, Disk) and any(tensor.name.endswith(TELLING) for tensor in model.tensors)


def folded_model(model: Model, opener: Opener, faults: Faults) -> Folded:
    """The arrays of a quantised layout as the weights that they mean; any other model as it is."""
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
