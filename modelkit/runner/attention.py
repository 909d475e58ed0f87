"""Grouped attention over queries, keys and values that are already rotated; and the cache of keys and values.

G = heads / kv heads query heads share a key head. A query at position p of a layer with window w sees the
keys j with p - w < j <= p. Long prompts are cut into runs of queries, so scores stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.runner.arithmetic import softcap, softmax

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SCORES = 1 << 22
"""Scores computed at once: 16 MiB of float32."""


class LayerCache:
    """Keys and values of one layer: [batch, kv head, position, size], the first `filled` positions known."""

    def __init__(self, batch: int, kv_heads: int, length: int, size: int) -> None:
        self.keys = np.empty((batch, kv_heads, length, size), np.float32)
        self.values = np.empty((batch, kv_heads, length, size), np.float32)
        self.filled = 0

    def extend(self, keys: F32, values: F32) -> tuple[F32, F32]:
        """Add [batch, kv head, tokens, size] and give back all positions so far."""
        start, end = self.filled, self.filled + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass(frozen=True, slots=True)
class Rules:
    """How scores are made: factor of q times k, cap (None: none), window (None: all before)."""

    scale: float
    cap: float | None
    window: int | None


def attend(queries: F32, keys: F32, values: F32, rules: Rules) -> F32:
    """queries [batch, tokens, heads, size]; keys and values [batch, kv head, position, size].

    Gives [batch, tokens, heads * size]. The queries belong to the last positions.
    """
    batch, tokens, heads, size = queries.shape
    mixed = np.empty((batch, tokens, heads * size), np.float32)
    run = max(1, min(tokens, SCORES // (batch * heads * keys.shape[2])))
    start = keys.shape[2] - tokens
    for first in range(0, tokens, run):
        last = min(first + run, tokens)
        low = 0 if rules.window is None else max(0, start + first - rules.window + 1)
        span = slice(low, start + last)
        part = _mix(queries[:, first:last], keys[:, :, span], values[:, :, span], rules)
        mixed[:, first:last] = part
    return mixed


def _mix(queries: F32, keys: F32, values: F32, rules: Rules) -> F32:
    batch, tokens, heads, size = queries.shape
    kv_heads, seen = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    folded = queries.reshape(batch, tokens, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    folded = folded.reshape(batch, kv_heads, group * tokens, size)  # (batch, kv head, query of the group, size)
    scores = folded @ keys.swapaxes(2, 3)  # (batch, kv head, query of the group, position)
    scores *= np.float32(rules.scale)
    if rules.cap is not None:
        softcap(scores, rules.cap)
    if tokens > 1:
        each = scores.reshape(batch, kv_heads, group, tokens, seen)
        np.copyto(each, np.float32(-np.inf), where=_hidden(tokens, seen, rules.window))
    mixed = softmax(scores) @ values
    mixed = mixed.reshape(batch, kv_heads, group, tokens, size).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, tokens, heads * size)


def _hidden(queries: int, seen: int, window: int | None) -> Array:
    """True where a key must not be seen: bool [queries, seen]; the last query stands at the last key."""
    at = np.arange(seen - queries, seen)[:, None]
    key = np.arange(seen)
    hidden: Array = key > at
    if window is not None:
        hidden |= key <= at - window
    return hidden
