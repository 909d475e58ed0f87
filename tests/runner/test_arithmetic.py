"""Norms, activations and the error function against their definitions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkit.runner.arithmetic import ACTIVATIONS, erf, gelu, gelu_tanh, rms_norm, silu, softcap, softmax

X = np.concatenate([np.linspace(-12, 12, 40_001), [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]])


def test_erf_is_that_of_the_standard_library() -> None:
    expected = np.array([math.erf(value) for value in X])
    assert np.abs(erf(X) - expected).max() < 1e-13
    assert np.signbit(erf(np.array([-0.0])))[0]


@given(st.floats(allow_nan=False))
def test_erf_of_any_number(value: float) -> None:
    assert abs(float(erf(np.array([value]))[0]) - math.erf(value)) < 1e-13


def test_activations_follow_their_formulas() -> None:
    x = X.astype(np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        found = {name: act(x.copy()).astype(np.float64) for name, act in ACTIVATIONS.items()}
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        expected = {
            "silu": wide / (1 + np.exp(-wide)),
            "gelu": wide * 0.5 * (1 + np.array([math.erf(value / math.sqrt(2)) for value in wide])),
            "gelu_tanh": 0.5 * wide * (1 + np.tanh(inner)),
        }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.abs(found[name] - values)[:-2].max() < 2e-6, name
        assert np.isfinite(found[name]).all() or name == "gelu_tanh"


@pytest.mark.parametrize("act", [silu, gelu, gelu_tanh])
def test_activations_leave_their_input_alone(act: object) -> None:
    x = np.linspace(-3, 3, 50, dtype=np.float32)
    kept = x.copy()
    act(x)  # type: ignore[operator]
    assert np.array_equal(x, kept)


def test_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5, 64), dtype=np.float32)[:, :, 1:4]  # not contiguous, as heads are
    weight = rng.standard_normal(64, dtype=np.float32)
    wide = x.astype(np.float64)
    for eps in (1e-6, 1e-5, 0.5):
        expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight
        assert np.abs(rms_norm(x, weight, eps) - expected).max() < 1e-5


def test_softmax_and_softcap_take_extremes() -> None:
    scores = np.array([[1e30, 0, -np.inf], [-5, -5, -5], [88, 89, 90]], np.float32)
    found = softmax(scores.copy())
    assert np.allclose(found.sum(-1), 1) and found[0].tolist() == [1, 0, 0]
    assert np.allclose(softcap(np.array([1e9, -1e9, 0.25], np.float32), 30), [30, -30, 0.25], atol=1e-4)
