"""Steps: what is done is undone, on values and (where rows only move) on stored bytes; a loss is measured exactly."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkit.encodings import ENCODINGS
from modelkit.jobs import shifted_difference
from modelkit.kernels.arrays import difference
from modelkit.plan import copies, expect
from modelkit.steps import Step
from modelkit.steps.add_one import AddOne
from modelkit.steps.permute_rope import PermuteRope

F32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR = st.floats(-4, 4, width=32)
STEPS: tuple[Step, ...] = (PermuteRope(8, "pairs"), PermuteRope(8, "halves"), AddOne(1), AddOne(-1))


def column(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_the_contract_of_steps(step: Step) -> None:
    rows = np.random.default_rng(0).standard_normal((16 * step.rows, 3), dtype=np.float32)
    whole = step.apply(rows)
    assert whole.shape == rows.shape and whole.dtype == rows.dtype
    half = 8 * step.rows
    assert np.array_equal(np.concatenate([step.apply(rows[:half]), step.apply(rows[half:])]), whole)
    assert pickle.loads(pickle.dumps(step)) == step
    if not step.shift:  # the same order on bytes
        assert np.array_equal(step.apply(rows.view(np.uint8)).view(np.float32), whole)


@given(st.sampled_from([2, 4, 16, 64]), st.integers(1, 5), st.integers(1, 4))
def test_permutations_undo_each_other(size: int, heads: int, columns: int) -> None:
    rows = np.arange(size * heads * columns, dtype=np.int32).reshape(size * heads, columns)
    pairs = PermuteRope(size, "pairs").apply(rows)
    assert np.array_equal(PermuteRope(size, "halves").apply(pairs), rows)
    for row in range(size // 2):  # halves i and i + d/2 stand side by side
        assert np.array_equal(pairs[2 * row], rows[row]) and np.array_equal(pairs[2 * row + 1], rows[row + size // 2])


@given(st.lists(st.integers(-(2**23), 2**23 - 1), min_size=1, max_size=50))
def test_a_sum_that_float32_holds_comes_back(numerators: list[int]) -> None:
    """Multiples of 2^-23 from -1 to 1: every bf16 from 2^-16 up is one."""
    rows = column([number / 2**23 for number in numerators])
    there = AddOne(1).apply(rows)
    assert there.reshape(-1).tolist() == [1 + number / 2**23 for number in numerators]
    assert np.array_equal(AddOne(-1).apply(there), rows)
    assert shifted_difference(rows, there, 1)[0] == 0.0


@given(st.lists(F32, min_size=1, max_size=40), st.sampled_from([1, -1]))
def test_a_loss_is_seen_if_and_only_if_there_is_one(values: list[float], shift: int) -> None:
    rows = column(values)
    after = AddOne(shift).apply(rows)
    largest, squared, total = shifted_difference(rows, after, shift)
    pairs = zip(rows.reshape(-1).tolist(), after.reshape(-1).tolist(), strict=True)
    apart = [Fraction(b) - Fraction(a) - shift for a, b in pairs]
    assert (largest == 0) == (max(map(abs, apart)) < Fraction(5e-324))
    assert largest == pytest.approx(float(max(map(abs, apart))), rel=1e-12)
    assert squared == pytest.approx(sum(float(one) ** 2 for one in apart), rel=1e-9, abs=1e-320)
    meant = [a + max(shift, 0) for a in rows.reshape(-1).tolist()]
    assert total == pytest.approx(sum(one * one for one in meant), rel=1e-9, abs=1e-320)


@given(st.lists(NEAR, min_size=1, max_size=40))
def test_the_loss_is_the_same_in_both_directions(values: list[float]) -> None:
    """Rounded 1 + w against w, read as what both mean."""
    bare, factor = column(values), AddOne(1).apply(column(values))
    assert shifted_difference(bare, factor, 1)[0] == shifted_difference(factor, bare, -1)[0]
    assert difference(factor, factor)[:2] == (0.0, 0.0)


def test_values_that_are_no_numbers_count_as_equal() -> None:
    rows = column([float("nan"), float("inf"), 1.0])
    assert shifted_difference(rows, AddOne(1).apply(rows), 1) == (0.0, 0.0, 4.0)


def test_what_a_shift_means_for_a_plan() -> None:
    f32, bf16 = ENCODINGS["f32"], ENCODINGS["bf16"]
    turn, add = (PermuteRope(8, "pairs"),), (AddOne(1),)
    assert copies(f32, f32, turn) and not copies(f32, f32, add) and not copies(bf16, f32, ())
    assert [expect(f32, f32, turn), expect(bf16, f32), expect(f32, f32, add), expect(bf16, f32, add)] == [
        "EXACT",
        "EXACT",
        "ROUNDED",
        "ROUNDED",
    ]
