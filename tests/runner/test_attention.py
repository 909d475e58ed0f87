"""Attention against its definition, query by query, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkit.runner import attention
from modelkit.runner.attention import LayerCache, Rules, attend


def definition(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, rules: Rules) -> np.ndarray:
    """One query and one head at a time: weights are softmax of the scores of the keys that it may see."""
    batch, tokens, heads, size = queries.shape
    kv_heads, seen = keys.shape[1:3]
    out = np.empty((batch, tokens, heads, size))
    for b, t, h in np.ndindex(batch, tokens, heads):
        position = seen - tokens + t
        first = 0 if rules.window is None else max(0, position - rules.window + 1)
        shown = slice(first, position + 1)
        own = h // (heads // kv_heads)
        scores = keys[b, own, shown].astype(float) @ queries[b, t, h].astype(float) * rules.scale
        if rules.cap is not None:
            scores = rules.cap * np.tanh(scores / rules.cap)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ values[b, own, shown]
    return out.reshape(batch, tokens, heads * size)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    tokens=st.integers(1, 9),
    before=st.integers(0, 7),
    window=st.none() | st.integers(1, 12),
    cap=st.none() | st.just(1.5),
    scores=st.sampled_from([1, 60, 1 << 22]),
)
def test_attention_is_its_definition(
    batch: int, kv_heads: int, group: int, tokens: int, before: int, window: int | None, cap: float | None, scores: int
) -> None:
    """Also when only few scores may be in memory at once, so that queries are cut into runs."""
    rng = np.random.default_rng(tokens * 100 + before)
    queries = rng.standard_normal((batch, tokens, kv_heads * group, 8), dtype=np.float32)
    keys = rng.standard_normal((batch, kv_heads, before + tokens, 8), dtype=np.float32)
    values = rng.standard_normal((batch, kv_heads, before + tokens, 8), dtype=np.float32)
    rules = Rules(1 / math.sqrt(8), cap, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORES", scores)
        found = attend(queries, keys, values, rules)
    assert np.abs(found - definition(queries, keys, values, rules)).max() < 2e-6


def test_a_cache_gives_back_what_was_put_in() -> None:
    rng = np.random.default_rng(1)
    keys, values = rng.standard_normal((2, 3, 2, 6, 4)).astype(np.float32)  # (batch, kv head, position, size)
    cache = LayerCache(3, 2, 10, 4)
    cache.extend(keys[:, :, :5], values[:, :, :5])
    found = cache.extend(keys[:, :, 5:], values[:, :, 5:])
    assert cache.filled == 6
    assert np.array_equal(found[0], keys) and np.array_equal(found[1], values)
