"""Codes of one grid as codes of another: what is exact is exact, and what moves is noticed."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkit.encodings import _refitting
from modelkit.encodings._codes import fits, rounded, values
from modelkit.encodings._refitting import moves_beyond, refit
from modelkit.errors import BadValue, Unsupported
from modelkit.tensors import Codes, Grid

SHAPE = (6, 256)
MIDDLE, ZEROS, BIASES = (Grid(4, 64, "F16", offset) for offset in ("middle", "integer", "float"))


def made(grid: Grid, seed: int = 0) -> Codes:
    """Random codes of a grid; biases as rounding leaves them of whole zeros."""
    rng = np.random.default_rng(seed)
    groups = (SHAPE[0], SHAPE[1] // grid.group)
    scales = rounded(rng.uniform(1e-4, 1e-2, groups) * rng.choice([-1, 1], groups), grid.scale, "scale")
    codes = rng.integers(0, 2**grid.bits, SHAPE, np.uint8)
    zeros = rng.integers(0, 2**grid.bits, groups).astype(np.int16)
    if grid.offset == "middle":
        return Codes(grid, codes, scales)
    if grid.offset == "integer":
        return Codes(grid, codes, np.abs(scales), zeros)
    return Codes(grid, codes, scales, None, rounded(-zeros.astype(np.float64) * scales, grid.scale, "bias"))


@settings(max_examples=60)
@given(
    st.sampled_from(["middle", "integer", "float"]), st.sampled_from(["middle", "integer", "float"]),
    st.integers(2, 8), st.integers(0, 4), st.sampled_from([32, 64]),
    st.sampled_from(["F16", "BF16", "F32"]), st.sampled_from(["F16", "BF16", "F32"]), st.integers(0, 99),
)  # fmt: skip
def test_what_headers_promise_holds(
    one: str, other: str, bits: int, more: int, group: int, scale: str, into: str, seed: int
) -> None:
    source = made(Grid(bits, 64, scale, one), seed)
    target = Grid(min(bits + more, 8), group, into, other)
    found = refit(source, target, SHAPE)
    assert found.codes.max() < 2**target.bits
    assert found.scales.shape == (SHAPE[0], SHAPE[1] // group)
    apart = np.abs(values(found).astype(np.float64) - values(source))
    fit = fits(source.grid, target)
    assert fit in ("EXACT", "ROUNDED", "DATA")
    if fit == "EXACT":
        assert not apart.any()
    if not moves_beyond(source, found):
        size = np.abs(source.scales).max() * 2**bits
        assert apart.max() <= 2.0**-7 * size


@settings(max_examples=80)
@given(
    st.sampled_from(["middle", "integer", "float"]), st.sampled_from(["middle", "integer", "float"]),
    st.integers(2, 8), st.sampled_from(["F16", "BF16", "F32"]), st.sampled_from(["F16", "BF16", "F32"]),
    st.sampled_from([0, 1, 5, 20, 500]), st.integers(0, 99),
)  # fmt: skip
def test_both_ends_of_a_group_say_what_all_weights_say(
    one: str, other: str, bits: int, scale: str, into: str, off: int, seed: int
) -> None:
    source = made(Grid(bits, 64, scale, one), seed)
    found = refit(source, Grid(bits, 64, into, other), SHAPE)
    units = np.random.default_rng(seed).integers(-off, off + 1, found.scales.shape)
    found = replace(found, scales=(found.scales * (1 + units * 2.0**-12)).astype(np.float32))
    beyond = moves_beyond(source, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_refitting, "_ends_stay", lambda *_: False)
        assert moves_beyond(source, found) == beyond


def test_where_codes_stay_their_groups_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_refitting, "values", None)  # weights are not looked at
    for target in (BIASES, replace(ZEROS, scale="BF16")):
        source = made(ZEROS)
        assert not moves_beyond(source, refit(source, target, SHAPE))
    source = made(BIASES)
    assert (source.scales < 0).any()
    assert not moves_beyond(source, refit(source, ZEROS, SHAPE))


@pytest.mark.parametrize("grid", [MIDDLE, ZEROS])
def test_zeros_that_lie_in_the_middle_are_found_there(grid: Grid) -> None:
    source = made(MIDDLE)
    there = refit(refit(source, replace(BIASES, group=32), SHAPE), replace(grid, group=32), SHAPE)
    back = refit(there, replace(MIDDLE, group=32), SHAPE)
    assert np.array_equal(values(back), values(source))
    assert not moves_beyond(there, back)


def test_a_zero_outside_the_middle_is_held_by_wider_codes_alone() -> None:
    source = made(ZEROS)
    assert moves_beyond(source, refit(source, MIDDLE, SHAPE))
    wider = refit(source, replace(MIDDLE, bits=5), SHAPE)  # code - zero lies within -15 .. 15
    assert np.array_equal(values(wider), values(source))
    assert not moves_beyond(source, wider)


@pytest.mark.parametrize("scale", ["F16", "BF16"])
def test_a_bias_of_a_whole_zero_moves_by_rounding_and_any_other_by_more(scale: str) -> None:
    source = made(replace(BIASES, scale=scale))
    target = replace(ZEROS, scale=scale)
    assert not moves_beyond(source, refit(source, target, SHAPE))
    assert source.biases is not None
    shifted = source.biases.copy()
    shifted[3, 1] += 0.4 * source.scales[3, 1]
    other = replace(source, biases=rounded(shifted, scale, "bias"))
    assert moves_beyond(other, refit(other, target, SHAPE))


def test_a_scale_that_becomes_subnormal_moves_weights() -> None:
    source = made(replace(MIDDLE, scale="BF16"))
    assert not moves_beyond(source, refit(source, MIDDLE, SHAPE))
    tiny = replace(source, scales=(source.scales * 2.0**-14).astype(ml_dtypes.bfloat16).astype(np.float32))
    assert moves_beyond(tiny, refit(tiny, MIDDLE, SHAPE))
    with pytest.raises(BadValue, match="too large for F16"):
        refit(replace(source, scales=source.scales * np.float32(2.0**40)), MIDDLE, SHAPE)


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (MIDDLE, ZEROS, "EXACT"),
        (MIDDLE, BIASES, "EXACT"),
        (MIDDLE, replace(MIDDLE, group=32), "EXACT"),
        (MIDDLE, replace(MIDDLE, group=128), "NONE"),
        (MIDDLE, replace(MIDDLE, group=0), "NONE"),
        (replace(MIDDLE, group=0), MIDDLE, "EXACT"),
        (MIDDLE, replace(MIDDLE, bits=3), "NONE"),
        (MIDDLE, replace(MIDDLE, bits=8), "EXACT"),
        (replace(MIDDLE, scale="BF16"), MIDDLE, "ROUNDED"),
        (ZEROS, MIDDLE, "DATA"),
        (ZEROS, BIASES, "ROUNDED"),
        (ZEROS, replace(BIASES, scale="F32"), "EXACT"),
        (BIASES, ZEROS, "DATA"),
        (BIASES, MIDDLE, "DATA"),
        (replace(MIDDLE, mapped=True), MIDDLE, "NONE"),
        (replace(MIDDLE, tile=0, group=0), MIDDLE, "EXACT"),
        (MIDDLE, replace(MIDDLE, tile=0), "NONE"),
    ],
)
def test_what_grids_alone_say(source: Grid, target: Grid, wanted: str) -> None:
    assert fits(source, target) == wanted
    if wanted == "NONE":
        with pytest.raises(Unsupported):
            refit(made(replace(source, group=source.group or 64)), replace(target, bits=1), SHAPE)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_damaged_scale_moves_nothing_where_it_stays(value: float) -> None:
    """Without a warning of numpy's either, which the tests take for an error; what is healed in silence has moved."""
    source = made(replace(ZEROS, scale="BF16"))
    source.scales[3, 1] = value
    assert not moves_beyond(source, source)
    healed = replace(source, scales=np.where(np.isfinite(source.scales), source.scales, np.float32(1)))
    assert moves_beyond(source, healed)
    damaged = made(BIASES)
    assert damaged.biases is not None
    damaged.biases[3, 1] = value
    assert moves_beyond(damaged, refit(damaged, ZEROS, SHAPE))  # no whole zero says that
