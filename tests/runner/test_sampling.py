"""Greedy, temperature, top-p, seeds."""

from __future__ import annotations

import numpy as np

from modelkit.runner.sampling import Sampler

LOGITS = np.log(np.array([0.05, 0.4, 0.05, 0.3, 0.2], np.float32))


def drawn(sampler: Sampler, times: int = 4000) -> np.ndarray:
    return np.bincount([sampler.choose(LOGITS) for _ in range(times)], minlength=5) / times


def test_temperature_zero_takes_the_most_likely_and_the_first_of_equals() -> None:
    assert Sampler().choose(LOGITS) == 1
    assert Sampler().choose(np.array([1, 7, 7, 0], np.float32)) == 1


def test_draws_follow_the_probabilities() -> None:
    assert np.abs(drawn(Sampler(1.0, seed=0)) - np.exp(LOGITS)).max() < 0.03
    squared = np.exp(2 * LOGITS)
    assert np.abs(drawn(Sampler(0.5, seed=0)) - squared / squared.sum()).max() < 0.03


def test_top_p_draws_only_from_the_likeliest() -> None:
    found = drawn(Sampler(1.0, top_p=0.6, seed=0))
    assert found[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(found[1] - 0.4 / 0.7) < 0.03
    assert set(drawn(Sampler(1.0, top_p=1e-9, seed=0)).nonzero()[0]) == {1}


def test_a_seed_repeats_and_another_differs() -> None:
    one, two, three = (Sampler(1.0, seed=seed) for seed in (7, 7, 8))
    series = [[sampler.choose(LOGITS) for _ in range(50)] for sampler in (one, two, three)]
    assert series[0] == series[1] != series[2]


def test_extreme_temperatures_and_logits() -> None:
    huge = np.array([-1e30, 3e38, 0], np.float32)
    assert Sampler(1e-300, seed=0).choose(huge) == 1
    assert Sampler(1e6, seed=0).choose(huge) == 1
    assert {Sampler(1e9, seed=n).choose(LOGITS) for n in range(60)} == {0, 1, 2, 3, 4}
