"""Quantised models with something changed in their arrays or their config, and what `validate` says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - gives numpy the names of dtypes that safetensors asks for
import numpy as np
from safetensors.numpy import load_file, save_file

from modelkit.operations.validate import Request, validate

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
LAYOUTS = {
    "gptq": "gptq", "gptq-asym": "gptq:symmetric=no", "gptq-v2": "gptq:zeros=v2,symmetric=no",
    "awq": "awq", "mlx": "mlx", "mlx-mx": "mlx:mode=mxfp4",
    "ct": "compressed-tensors", "ct-asym": "compressed-tensors:symmetric=no", "ct-3": "compressed-tensors:bits=3",
    "ct-bf16": "compressed-tensors:scale=bf16", "ct-row": "compressed-tensors:group=row",
    "ct-int8": "compressed-tensors:format=int-quantized", "ct-fp8": "compressed-tensors:format=float-quantized",
    "ct-nv": "compressed-tensors:format=nvfp4-pack-quantized",
}  # fmt: skip
Tensors = dict[str, np.ndarray]
Config = dict[str, Any]


def altered(
    source: Path, to: Path, arrays: Callable[[Tensors], object] | None, config: Callable[[Config], object] | None
) -> Path:
    """A copy with its arrays and its config changed."""
    shutil.copytree(source, to)
    if arrays is not None:
        tensors = load_file(to / "model.safetensors")
        arrays(tensors)
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, to / "model.safetensors")
    if config is not None:
        found = json.loads((to / "config.json").read_text())
        config(found)
        (to / "config.json").write_text(json.dumps(found))
    return to


def judged(path: Path, level: str = "full") -> list[tuple[str, str, str]]:
    """Rule, severity and message of each finding, but for information about equal tensors."""
    found = validate(Request((str(path),), level)).findings
    return [(one.rule, one.severity, one.message) for one in found if one.rule != "identical-tensors"]
