"""What a written config.json says about compressed-tensors, as llm-compressor writes it and vLLM reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelkit.layouts._ct_schemes import METHOD
from modelkit.layouts._module_names import exactly
from modelkit.tensors import Encoding, Grid, Tensor

VERSION = "0.20.0"
"""The release whose layout is written: codes of 3, 5, 6 and 7 bits without gaps."""

SCALES = {"E8M0": "torch.uint8", "F8_E4M3": "torch.float8_e4m3fn"}
"""Dtypes of scales that the config names; others are the model's."""

EMBEDDINGS = ("embed", "wte", "wpe")


def config(tensors: Iterable[Tensor]) -> Mapping[str, Any]:
    """{"quantization_config": ...}: a group for each scheme, the most frequent one for all Linear modules."""
    tensors = list(tensors)
    groups: dict[str, list[str]] = {}
    schemes: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        if getattr(tensor.encoding, "layout", None) == "compressed_tensors":
            said = scheme(tensor.encoding)
            key = json.dumps(said)  # dtypes of scales are not said: they may differ within a group
            schemes.setdefault(key, said)
            groups.setdefault(key, []).append(_module(tensor))
    ordered = sorted(groups, key=lambda key: -len(groups[key]))
    written = {}
    for number, key in enumerate(ordered):
        targets = exactly(groups[key]) if number else ["Linear", *filter(_is_embedding, groups[key])]
        written[f"group_{number}"] = {"targets": targets, **schemes[key]}
    formats = {one["format"] for one in schemes.values()}
    return {
        "quantization_config": {
            "config_groups": written,
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "ignore": _ignored(tensors, {name for group in groups.values() for name in group}),
            "quant_method": METHOD,
            "quantization_status": "compressed",
            "version": VERSION,
        }
    }


def _ignored(tensors: Iterable[Tensor], quantised: set[str]) -> list[str]:
    """Linear modules that stay floats: matrices named weight, and the head, which may share the embedding's."""
    kept = {_module(one) for one in tensors if len(one.shape) == 2 and one.name.endswith(".weight")}
    return exactly({name for name in kept if not _is_embedding(name)} - quantised | {"lm_head"} - quantised)


def _module(tensor: Tensor) -> str:
    return tensor.name.removesuffix(".weight")


def _is_embedding(module: str) -> bool:
    return any(word in module.rpartition(".")[2] for word in EMBEDDINGS)


def scheme(encoding: Encoding) -> dict[str, Any]:
    """A group of the config without its targets."""
    grid = encoding.grid  # type: ignore[attr-defined]
    strategy = _strategy(grid)
    weights: dict[str, Any] = {
        "num_bits": grid.bits,
        "type": "int" if grid.number == "integer" else "float",
        "symmetric": grid.offset == "middle",
        "group_size": grid.group if strategy in ("group", "tensor_group") else None,
        "strategy": strategy,
        "dynamic": False,
    }
    if strategy == "block":
        weights["block_structure"] = [grid.tile, grid.group]
    if grid.scale in SCALES:
        weights["scale_dtype"] = SCALES[grid.scale]
    form = encoding.format  # type: ignore[attr-defined]
    return {
        "weights": weights,
        "input_activations": _activations(form, strategy, grid.group),
        "output_activations": None,
        "format": form,
    }


def _strategy(grid: Grid) -> str:
    if grid.overall != "none":
        return "tensor_group"
    if grid.tile != 1:
        return "block" if grid.tile else "tensor"
    return "group" if grid.group else "channel"


def _activations(form: str, strategy: str, group: int) -> dict[str, Any] | None:
    """Engines have int8 and fp8 kernels that quantise activations as they come, and for these formats no others."""
    if form not in ("int-quantized", "float-quantized"):
        return None
    return {
        "num_bits": 8,
        "type": "int" if form == "int-quantized" else "float",
        "symmetric": True,
        "group_size": group if strategy == "block" else None,
        "strategy": "group" if strategy == "block" else "token",
        "dynamic": True,
    }
