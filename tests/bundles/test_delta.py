"""Differences: the inverse is exact for every bit pattern, integers are in the order of the numbers."""

from __future__ import annotations

import json
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import STORIES

from modelkit.bundles import unpack
from modelkit.bundles.delta import difference, restored

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


@given(st.sampled_from([8, 16, 32]), st.integers(0, 200), st.data())
def test_the_inverse_is_exact_whatever_the_bits(bits: int, count: int, draw: st.DataObject) -> None:
    size = count * bits // 8
    new, base = (draw.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    steps = difference(new, base, bits).tobytes()
    assert restored(steps, base, bits).tobytes() == new
    if count:
        assert unpack.undone(steps, base, bits) == new


def test_every_pair_of_16_bit_words_that_matters() -> None:
    """All 65,536 words against a handful of others: zeros of both signs, the largest, infinities, NaN."""
    new = np.arange(1 << 16, dtype="<u2")
    for word in (0, 0x8000, 1, 0x8001, 0x7F80, 0xFF80, 0x7FFF, 0xFFFF, 0x3F80):
        base = np.full_like(new, word)
        assert restored(difference(new, base, 16), base, 16).tobytes() == new.tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_integers_are_in_the_order_of_the_numbers(dtype: str) -> None:
    """The step from one number to the next is one, and up is even."""
    kind = np.dtype(DTYPES[dtype])
    bits = 8 * kind.itemsize
    values = np.random.default_rng(0).standard_normal(1000).astype(kind)
    word = values.view(f"u{bits // 8}")
    up = np.nextafter(values, np.array(np.inf, kind)).view(word.dtype)
    assert set(difference(up.tobytes(), word.tobytes(), bits).view(word.dtype).tolist()) == {2}
    assert set(difference(word.tobytes(), up.tobytes(), bits).view(word.dtype).tolist()) == {1}


def test_the_same_has_no_difference() -> None:
    data = os.urandom(1024)
    for bits in (8, 16, 32):
        assert not difference(data, data, bits).any()


def test_both_zeros_are_neighbours() -> None:
    zero, minus = np.array([0], "<u2"), np.array([0x8000], "<u2")
    assert difference(zero, minus, 16).view("<u2").tolist() == [2]


def test_words_of_another_width() -> None:
    with pytest.raises(ValueError, match="words of 64 bits"):
        difference(bytes(8), bytes(8), 64)


def test_the_tuned_sibling_comes_back_from_its_base() -> None:
    base, tuned = ((folder / "model.safetensors").read_bytes() for folder in (STORIES, STORIES.parent / "tuned"))
    start = 8 + int.from_bytes(base[:8], "little")
    assert json.loads(base[8:start]) == json.loads(tuned[8:start])
    steps = difference(tuned[start:], base[start:], 16)
    assert restored(steps, base[start:], 16).tobytes() == tuned[start:]
    high = np.count_nonzero(steps[1::2])
    assert 0 < high < np.count_nonzero((np.frombuffer(tuned[start:], "u1") ^ np.frombuffer(base[start:], "u1"))[1::2])
