"""The next token from logits: the most likely one, or drawn by temperature and top-p from a seeded generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32


class Sampler:
    """temperature 0: always the most likely token, the lowest id among equals. top_p: draw only from the most
    likely tokens that together have this probability. The same seed gives the same tokens."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self._random = np.random.default_rng(seed) if temperature > 0 else None

    def choose(self, logits: F32) -> int:
        """A token id from logits [vocabulary]."""
        if self._random is None:
            return int(logits.argmax())
        scaled = logits.astype(np.float64)
        scaled -= scaled.max()
        with np.errstate(over="ignore"):  # next to 0 all but the most likely become -infinity
            scaled /= self.temperature
        weights = np.exp(scaled)
        order = np.argsort(-weights, kind="stable")
        sums = np.cumsum(weights[order])
        kept = int(np.searchsorted(sums, self.top_p * sums[-1])) + 1 if self.top_p < 1 else len(sums)
        kept = min(kept, len(sums))
        drawn = int(np.searchsorted(sums[:kept], self._random.random() * sums[kept - 1], side="right"))
        return int(order[min(drawn, kept - 1)])
