"""Two predicted distributions for each token, compared while their logits stream by in blocks of the vocabulary.

With logits a (original) and b (converted), and lse(x) = log sum exp(x):

    KL(a || b) = sum p_a (a - b) - lse(a) + lse(b)      nats, p_a = exp(a - lse(a))

The sums are kept relative to the largest logit so far and rescaled when a larger one comes, so no logits
are stored: memory is a few numbers for each token. Sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

BEST = 5


@dataclass(frozen=True, slots=True)
class Distributions:
    """For each token: KL divergence in nats, the most likely ids, -log p of the token that really follows."""

    kl: Array  # float64 [tokens]
    top: Array  # int64 [2, tokens, BEST]: of original and converted, best first
    surprise: Array  # float64 [2, tokens], nats; NaN where no token follows
    identical: bool  # every logit has the same bits
    logit_error: float  # largest difference of a logit, relative to the largest logit of the original
    finite: bool

    @property
    def same_top(self) -> Array:
        """Whether both find the same token most likely: bool [tokens]."""
        same: Array = self.top[0, :, 0] == self.top[1, :, 0]
        return same

    @property
    def overlap(self) -> Array:
        """The share of the original's five best that are among the converted's: float64 [tokens]."""
        found = (self.top[0, :, :, None] == self.top[1, :, None, :]).any(axis=2)
        share: Array = found.mean(axis=1)
        return share


class Comparison:
    """Feed blocks of logits with `add`, in order; then take `result`. targets: the ids that follow, -1 = none."""

    def __init__(self, targets: Array) -> None:
        tokens = len(targets)
        self._targets = targets
        self._peak = np.full((2, tokens), -np.inf)
        self._sum = np.zeros((2, tokens))
        self._gap = np.zeros(tokens)  # sum of exp(a - peak) (a - b)
        self._target = np.full((2, tokens), np.nan)
        self._best = np.full((2, tokens, BEST), -np.inf, np.float32)
        self._ids = np.full((2, tokens, BEST), -1, np.int64)
        self._identical = self._finite = True
        self._apart = self._largest = 0.0

    def add(self, first: int, original: F32, converted: F32) -> None:
        """Logits [tokens, ids] of both for the ids from `first`."""
        if not np.array_equal(original.view(np.uint32), converted.view(np.uint32)):
            self._identical = False
            self._apart = max(self._apart, float(np.abs(original - converted).max(initial=0.0)))
        self._largest = max(self._largest, float(np.abs(original).max(initial=0.0)))
        finite = bool(np.isfinite(original).all() and np.isfinite(converted).all())
        self._finite = self._finite and finite
        weights = self._add_sums(0, original)
        self._add_sums(1, converted)
        self._gap += np.einsum("ti,ti->t", weights, original - converted, dtype=np.float64)
        inside = np.flatnonzero((self._targets >= first) & (self._targets < first + original.shape[1]))
        for side, logits in enumerate((original, converted)):
            self._target[side, inside] = logits[inside, self._targets[inside] - first]
            self._merge_best(side, first, logits)

    def result(self) -> Distributions:
        """What all blocks together say."""
        with np.errstate(invalid="ignore", divide="ignore"):
            normaliser = self._peak + np.log(self._sum)
            kl = self._gap / self._sum[0] - normaliser[0] + normaliser[1]
            surprise = normaliser - self._target
            error = self._apart / self._largest if self._largest else 0.0
        kl = np.zeros_like(kl) if self._identical else np.maximum(kl, 0.0)  # rounding may leave a little below 0
        return Distributions(kl, self._ids, surprise, self._identical, error, self._finite)

    def _add_sums(self, side: int, logits: F32) -> F32:
        """Take a block into the sums; gives back exp(logits - peak), float32."""
        with np.errstate(invalid="ignore", over="ignore"):
            peak = np.maximum(self._peak[side], logits.max(axis=1))
            shrink = np.exp(self._peak[side] - peak, where=np.isfinite(peak), out=np.zeros_like(peak))
            weights: F32 = np.exp(logits - peak[:, None].astype(np.float32))
        self._sum[side] = self._sum[side] * shrink + weights.sum(axis=1, dtype=np.float64)
        if side == 0:
            self._gap *= shrink
        self._peak[side] = peak
        return weights

    def _merge_best(self, side: int, first: int, logits: F32) -> None:
        """Keep the five best of those known and of this block; of equals the lower id."""
        found = _largest(logits, min(BEST, logits.shape[1]))
        values = np.concatenate([self._best[side], np.take_along_axis(logits, found, axis=1)], axis=1)
        ids = np.concatenate([self._ids[side], found + first], axis=1)
        order = np.lexsort((ids, -values), axis=1)[:, :BEST]
        self._best[side] = np.take_along_axis(values, order, axis=1)
        self._ids[side] = np.take_along_axis(ids, order, axis=1)


def _largest(logits: F32, count: int) -> Array:
    """Where each row's largest values stand, in no order; of equals the first ones: int64 [tokens, count]."""
    found = np.argpartition(logits, logits.shape[1] - count, axis=1)[:, -count:]
    least = np.take_along_axis(logits, found, axis=1).min(axis=1, keepdims=True)
    for row in np.flatnonzero(np.count_nonzero(logits >= least, axis=1) > count):
        found[row] = np.argsort(-logits[row], kind="stable")[:count]
    return found


def joined(parts: list[Distributions]) -> Distributions:
    """The tokens of several passes as one."""
    return Distributions(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.top for part in parts], axis=1),
        np.concatenate([part.surprise for part in parts], axis=1),
        all(part.identical for part in parts),
        max(part.logit_error for part in parts),
        all(part.finite for part in parts),
    )
