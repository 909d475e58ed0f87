"""Rotary scaling in one set of words for all dialects, those of transformers' `rope_parameters`.

    rope_type  always there                                   left out at its usual value
    linear     factor
    dynamic    factor
    llama3     factor, low_freq_factor, high_freq_factor,
               original_max_position_embeddings
    yarn       factor, original_max_position_embeddings       beta_fast 32, beta_slow 1, truncate true,
                                                              attention_factor 0.1 ln(factor) + 1
    longrope   short_factor, long_factor (a number for        attention_factor sqrt(1 + ln(F) / ln(o)), where
               each rotary pair), o =                         F = context / o, or 1 for F <= 1
               original_max_position_embeddings

The attention factor multiplies cos and sin. Formulas: transformers' modeling_rope_utils, which llama.cpp follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, log, sqrt
from typing import Any

BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
PRECISION = 1e-6  # relative; what is stored in float32 is not told apart more finely


def growth(factor: float, scale: float = 1.0) -> float:
    """yarn's 0.1 scale ln(factor) + 1, and 1 for a factor that does not lengthen."""
    return 0.1 * scale * log(factor) + 1.0 if factor > 1 else 1.0


def attention_factor(rope: Mapping[str, Any], context: int) -> float:
    """What cos and sin are multiplied by; `context` is the config's."""
    stated = rope.get("attention_factor")
    if stated is not None:
        return float(stated)
    if rope.get("rope_type") == "yarn":
        return growth(rope["factor"])
    if rope.get("rope_type") == "longrope":
        original = rope["original_max_position_embeddings"]
        return lengthening(context / original, original)
    return 1.0


def lengthening(factor: float, original: int) -> float:
    """longrope's sqrt(1 + ln(factor) / ln(original context))."""
    return sqrt(1 + log(factor) / log(original)) if factor > 1 and original > 1 else 1.0


def settled(rope: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The same scaling without what has its usual value, so that two that mean the same are equal."""
    kept = {key: value for key, value in rope.items() if value is not None}
    kind = kept.get("rope_type")
    if kind is None or (kind == "linear" and kept["factor"] == 1):
        return {}
    for key, usual in BETAS.items():
        if kept.get(key) == usual:
            del kept[key]
    if kept.get("truncate") is True:
        del kept["truncate"]
    stated = kept.pop("attention_factor", None)
    if stated is not None and not isclose(stated, attention_factor(kept, context), rel_tol=PRECISION):
        kept["attention_factor"] = float(stated)
    return kept
