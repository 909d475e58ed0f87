"""Properties that hold for all values: round trips, order, refusals with the right place, cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelkit.encodings import ENCODINGS, find
from modelkit.encodings._slabs import SLAB
from modelkit.errors import BadValue

FLOATS = ("f16", "bf16", "f8_e4m3", "f8_e5m2", "f32", "f64")
BLOCKS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "llama2c")
LEVELS = {"q4_0": 8, "q4_1": 15, "q5_0": 16, "q5_1": 31, "q8_0": 127, "llama2c": 127}
STEPS = {"q4_0": 1, "q5_0": 1}  # the largest error in steps: the positive end has no code of its own; else a half

finite = st.floats(width=32, min_value=-(2.0**126), max_value=2.0**126)
modest = st.floats(width=32, min_value=-8192, max_value=8192)
few = settings(max_examples=60)


def again(encoding, values: np.ndarray) -> np.ndarray:
    parts = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in encoding.pack(values)]
    return encoding.unpack(parts, values.shape)


def rows(elements: st.SearchStrategy[float], count: int = 4) -> st.SearchStrategy[np.ndarray]:
    shapes = st.integers(1, count).map(lambda n: (n, 64))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=elements))


@pytest.mark.parametrize("name", FLOATS)
@given(values=arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32)))
@few
def test_a_float_keeps_order_sign_and_kind_and_settles_at_once(name, values):
    encoding = ENCODINGS[name]
    if encoding.limit is not None:
        beyond = np.abs(values) > np.float32(encoding.limit)
        values = values[~beyond | (np.isinf(values) & encoding.infinity)]
    values = np.sort(values)  # NaN last
    found = again(encoding, values)
    numbers = ~np.isnan(values)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert np.array_equal(np.isinf(found), np.isinf(values))
    assert np.array_equal(np.signbit(found[numbers]), np.signbit(values[numbers]))
    assert (found[numbers][:-1] <= found[numbers][1:]).all()
    assert np.array_equal(again(encoding, found), found, equal_nan=True)
    normal = numbers & np.isfinite(values) & (np.abs(values) >= 2.0 ** (2 - 2 ** (encoding.exponent - 1)))
    error = np.abs(found[normal].astype(np.float64) - values[normal])
    assert (error <= np.abs(values[normal]) * 2.0 ** -(encoding.mantissa + 1)).all()


@pytest.mark.parametrize("name", BLOCKS)
@given(values=rows(modest))
@few
def test_a_block_errs_by_half_a_step(name, values):
    encoding = ENCODINGS[name]
    size = 64 if name == "llama2c" else 32
    blocks, found = values.reshape(-1, size), again(encoding, values).reshape(-1, size)
    low, high = blocks.min(axis=1).astype(np.float64), blocks.max(axis=1).astype(np.float64)
    largest = np.maximum(-low, high)
    spread = high - low if name.endswith("_1") else largest
    rounded = spread * 2.0**-11 + largest * 2.0**-11 + 2.0**-20 + LEVELS[name] * 2.0**-24  # f16 scale and minimum
    assert (np.abs(found - blocks).max(axis=1) <= STEPS.get(name, 0.5) * spread / LEVELS[name] * 1.0001 + rounded).all()


@pytest.mark.parametrize("name", BLOCKS)
@given(values=rows(modest), other=rows(modest))
@few
def test_blocks_do_not_know_their_neighbours(name, values, other):
    encoding = ENCODINGS[name]
    assert np.array_equal(
        again(encoding, np.concatenate([values, other])),
        np.concatenate([again(encoding, values), again(encoding, other)]),
    )


@pytest.mark.parametrize("name", BLOCKS)
@given(values=rows(modest), cut=st.integers(0, 8))
@few
def test_a_cut_at_a_unit_changes_no_byte(name, values, cut):
    encoding = ENCODINGS[name]
    flat = values.reshape(-1)
    place = min(cut * encoding.unit(values.shape), len(flat))
    whole = [part.tobytes() for part in encoding.pack(flat)]
    pieces = [encoding.pack(flat[:place]), encoding.pack(flat[place:])]
    assert whole == [one.tobytes() + other.tobytes() for one, other in zip(*pieces, strict=True)]


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0", "llama2c"])
@given(values=rows(modest), power=st.integers(-3, 3))
@few
def test_twice_the_values_are_the_same_codes_with_twice_the_scale(name, values, power):
    values = np.where(np.abs(values) < 2.0**-6, np.float32(0), values)  # scales stay normal f16
    values[:, ::32] = 1
    found = again(ENCODINGS[name], values * np.float32(2.0**power))
    assert np.array_equal(found, again(ENCODINGS[name], values) * np.float32(2.0**power))


@pytest.mark.parametrize("name", BLOCKS)
@given(values=rows(modest, 2), bad=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 127))
@few
def test_a_block_refuses_what_is_no_number_and_says_where(name, values, bad, place):
    flat = np.concatenate([np.zeros((SLAB // 64) * 64, np.float32), values.reshape(-1)])  # in the second slab
    index = len(flat) - 1 - place % values.size
    flat[index] = bad
    flat[-1] = np.nan
    with pytest.raises(BadValue) as caught:
        ENCODINGS[name].pack(flat)
    assert caught.value.index == index
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["f16", "bf16", "f8_e4m3", "f8_e5m2"])
@given(
    place=st.integers(0, 2 * SLAB),
    share=st.floats(0, 1),
    sign=st.sampled_from([-1, 1]),
    noise=st.sampled_from([np.nan, 0.0, 1.0]),
)
@few
def test_a_float_refuses_what_would_become_infinite_and_says_where(name, place, share, sign, noise):
    encoding = ENCODINGS[name]
    limit, most = np.float32(encoding.limit), np.finfo(np.float32).max
    edge = np.nextafter(limit, np.float32(np.inf))
    values = np.full(2 * SLAB + 1, noise, np.float32)
    values[place] = sign * limit
    encoding.pack(values)
    values[place] = sign * min(np.float32(edge + share * (float(most) - float(edge))), most)
    values[place + 1 :] = most
    with pytest.raises(BadValue) as caught:
        encoding.pack(values)
    assert caught.value.index == place


@pytest.mark.parametrize("name", ["f16", "bf16", "f8_e5m2", "f32", "f64"])
def test_infinities_stay_where_the_format_has_them(name):
    values = np.array([np.inf, -np.inf, 1], np.float32)
    assert np.array_equal(again(ENCODINGS[name], values), values)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 464.1])
def test_e4m3_has_no_infinity(value):
    with pytest.raises(BadValue, match="holds at most 448") as caught:
        ENCODINGS["f8_e4m3"].pack(np.array([1, np.nan, value], np.float32))
    assert caught.value.index == 2


@pytest.mark.parametrize(("name", "most"), [("q4_0", 8), ("q5_0", 16), ("q8_0", 127)])
@given(place=st.integers(0, 63), sign=st.sampled_from([-1, 1]), factor=st.floats(1, 1e30))
@few
def test_a_scale_that_overflows_f16_is_refused_at_its_value(name, most, place, sign, factor):
    values = np.ones((3, 64), np.float32)
    values[1, place] = sign * np.nextafter(np.float32(most * 65520), np.float32(0))
    assert np.isfinite(again(ENCODINGS[name], values)).all()
    values[1, place] = sign * np.float32(most * 65520) * np.float32(factor)
    with pytest.raises(BadValue) as caught:
        ENCODINGS[name].pack(values)
    assert caught.value.index == 64 + place


@pytest.mark.parametrize(("name", "low", "high"), [("q4_1", -65520, 0), ("q5_1", 0, 31 * 65520), ("q4_1", -3e38, 3e38)])
def test_a_range_or_a_minimum_that_overflows_f16_is_refused(name, low, high):
    values = np.zeros((2, 64), np.float32)
    values[1, 40:42] = low, high
    with pytest.raises(BadValue) as caught:
        ENCODINGS[name].pack(values)
    assert caught.value.index in (64 + 40, 64 + 41)


@given(group=st.integers(1, 300), values=arrays(np.float32, st.integers(0, 4).map(lambda n: n * 300), elements=finite))
@few
def test_llama2c_groups_may_have_any_size(group, values):
    encoding = find(f"llama2c:group={group}")
    values = values[: len(values) // group * group]
    assert encoding.misfit(values.shape) is None
    codes, scales = encoding.pack(values)
    assert (codes != -128).all()
    assert len(scales) == len(values) // group
    error = np.abs(again(encoding, values).astype(np.float64) - values).reshape(-1, group)
    assert (error <= scales[:, None].astype(np.float64) * 0.50001 + 2.0**-142).all()
