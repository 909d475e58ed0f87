"""Rotary frequencies against transformers, bit by bit where its own powers are; and what must be refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES

from modelkit.architectures._rope import attention_factor
from modelkit.errors import BrokenFile, Unsupported
from modelkit.runner.rope import Rope, frequencies

GOLDEN: list[dict[str, Any]] = json.loads((FAMILIES / "frequencies.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['scaling']['rope_type']}-{case['dimensions']}")
def test_frequencies_are_those_of_transformers(case: dict[str, Any]) -> None:
    """Within one unit of the last place: torch's power is not always the nearest float32, ours is."""
    found = frequencies(case["dimensions"], case["theta"], case["scaling"], case["context"], case["length"])
    bits = found.view(np.uint32).astype(np.int64)
    apart = np.abs(bits - np.array(case["bits"]))
    assert found.dtype == np.float32 and apart.max() <= (8 if case["scaling"]["rope_type"] == "dynamic" else 2)
    assert (apart == 0).mean() > (0.1 if case["scaling"]["rope_type"] == "dynamic" else 0.7)


def test_rotation_turns_each_pair_by_its_angle() -> None:
    rope = Rope(6, 100.0, {}, 64, 64)
    heads = np.random.default_rng(0).standard_normal((2, 5, 3, 8), dtype=np.float32)
    turned = heads.copy()
    rope.rotate(turned, 7)
    angles = np.arange(7, 12)[:, None] * 100.0 ** (-np.arange(3) / 3)  # (token, pair)
    before, after = heads[..., :3] + 1j * heads[..., 3:6], turned[..., :3] + 1j * turned[..., 3:6]
    assert np.abs(before * np.exp(1j * angles)[:, None, :] - after).max() < 1e-6
    assert np.array_equal(heads[..., 6:], turned[..., 6:])


def test_angles_are_products_of_float32() -> None:
    """As in transformers; in float64 the angle of a late position would be another one."""
    rope = Rope(64, 10000.0, {}, 1 << 20, 1 << 20)
    position = np.float32(1_000_003)
    cos, sin = rope.tables(1_000_003, 1)
    angles = (position * rope.inverse).astype(np.float64)
    assert np.array_equal(cos[0, 0], np.cos(angles).astype(np.float32))
    assert np.array_equal(sin[0, 0], np.sin(angles).astype(np.float32))
    exact = 1_000_003 * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    assert np.abs(angles - exact).max() > 1e-3


@pytest.mark.parametrize(
    ("theta", "scaling"),
    [
        (0.0, {}),
        (-1.0, {}),
        (float("nan"), {}),
        (1e4, {"rope_type": "linear", "factor": 0}),
        (1e4, {"rope_type": "linear"}),
        (1.0, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}),
        (1e4, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}),
        (1e4, {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0, 2.0, 3.0],
               "original_max_position_embeddings": 16}),
        (1e4, {"rope_type": "llama3", "factor": "a", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}),
    ],
)  # fmt: skip
def test_numbers_that_give_no_frequencies_are_refused(theta: float, scaling: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match="no rotary frequencies"):
        Rope(8, theta, scaling, 64, 64)


def test_an_unknown_scaling_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="unsupported architecture: rope type 'spiral'"):
        Rope(8, 1e4, {"rope_type": "spiral"}, 64, 64)


def test_attention_factors_are_those_of_transformers() -> None:
    stated = [case for case in GOLDEN if "mscale" not in case["scaling"]]
    for case in stated:
        assert abs(attention_factor(case["scaling"], case["context"]) - case["factor"]) < 1e-12
