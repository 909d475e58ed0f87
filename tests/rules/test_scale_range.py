"""Scales that lie where none should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import layout_cases
import numpy as np
import pytest
from altered_models import UP, Tensors, altered, judged
from safetensors.numpy import load_file, save_file


def with_scale(at: int, value: float) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors[f"{UP}.scales"].reshape(-1)[at] = value

    return change


SCALES = {
    "zero": (0.0, "warning", "1 scale of 0 in"),
    "large": (60000.0, "warning", "beyond f16 (65,504)"),
    "small": (1e-6, "info", "1 scale below 0.000061"),
}


@pytest.mark.parametrize("what", SCALES)
@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_scales_of_f16_are_looked_at(what: str, layout: str, built: Path, tmp_path: Path) -> None:
    value, severity, told = SCALES[what]
    at = altered(built / layout, tmp_path / "model", with_scale(5, value), None)
    for level in ("sample", "full"):
        (found,) = judged(at, level)
        assert found[:2] == ("scale-range", severity)
        assert told in found[2]
    assert judged(at, "header") == []
    negative = altered(built / layout, tmp_path / "negative", with_scale(5, -0.01), None)
    assert judged(negative) == []


def test_a_group_of_zeros_may_have_a_scale_of_zero(built: Path, tmp_path: Path) -> None:
    def empty(tensors: Tensors) -> None:
        tensors[f"{UP}.scales"][0, 3] = 0
        tensors[f"{UP}.qweight"][: 128 // 8, 3] = -0x77777778  # every code 8

    assert judged(altered(built / "gptq", tmp_path / "model", empty, None)) == []


@pytest.mark.parametrize("case", ["bnb_nf4_b64_plain_bf16", "mlx_nvfp4_bf16", "mlx_mxfp4_bf16", "bnb_int8_f16"])
def test_scales_that_are_sizes_are_not_negative(case: str, tmp_path: Path) -> None:
    place, spec = layout_cases.golden(case)
    config = (
        {"quantization": spec["args"]}
        if case.startswith("mlx")
        else {"quantization_config": {"quant_method": "bitsandbytes"}}
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, value, told in (
        ("mxfp4", 0xFF, "no scale (NaN)"),
        ("nvfp4", 0x88, "1 scale below 0"),
        ("", -1.0, "below 0"),
    ):
        if name in case:
            tensors = load_file(place.path / place.file)
            scale = next(one for one in tensors if one.endswith((".scales", ".absmax", ".SCB")))
            tensors[scale].reshape(-1)[1] = value
            save_file(tensors, tmp_path / "model.safetensors")
            ((rule, severity, message),) = judged(tmp_path)
            assert (rule, severity) == ("scale-range", "error")
            assert told in message
            break


def test_scales_of_large_arrays_are_sampled_at_both_ends(tmp_path: Path) -> None:
    rows, columns = 64, 128 * 4096
    scales = np.full((rows, columns // 128), 0.01, np.float16)
    stored = {
        "a.weight_packed": np.arange(rows * columns // 8, dtype=np.int32).reshape(rows, -1) * 0x1234567,
        "a.weight_scale": scales,
        "a.weight_shape": np.array([rows, columns]),
    }
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    for at, levels in (((0, 1), "sf"), ((63, 4095), "sf"), ((32, 0), "f")):
        scales[:] = 0.01
        scales[at] = 0
        layout_cases.folder(tmp_path, stored)
        for level in ("sample", "full"):
            found = [message for rule, _, message in judged(tmp_path, level) if rule == "scale-range"]
            assert bool(found) == (level[0] in levels)
            assert all(f"row {at[0]}" in message for message in found)
