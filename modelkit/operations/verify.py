"""Prove a conversion by running both sides, one layer of each in memory at a time.

Both models see the same tokens. Layer by layer their hidden states are compared, at the end the
distributions that they predict, and beside them the weights themselves. Both run in one canonical order of
q and k, in the same blocks of rows, so a lossless conversion gives the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from modelkit.errors import BadRequest, Refused
from modelkit.lazy import np
from modelkit.metrics.distributions import Comparison, Distributions, joined
from modelkit.metrics.hidden_states import cosines, relative_error
from modelkit.metrics.weight_errors import WeightComparison, WeightError
from modelkit.operations.gates import Gate, Judgement, judge
from modelkit.operations.loading import Loaded, load
from modelkit.operations.sample import Sample, sample

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

PASS = 2048
"""Tokens that go through both models together: their hidden states are what memory holds beside one layer."""

TAIL = 10_000  # positions from which the 99.9th percentile means something
NORMAL = 1.96  # half the 95 % interval of a mean, in standard errors

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to compare, and on which tokens. Without `tokens_file` and `text` the built-in text is used."""

    original: str
    converted: str
    tokens_file: str | None = None
    text: str | None = None
    tokenizer: str | None = None
    gate: Gate | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far the states after a layer are apart. `local`: the layer's own share, fed with the original's input,
    relative to what the layer adds; None when it was not asked for."""

    layer: int
    relative: float
    cosine: float  # mean over tokens
    worst_cosine: float
    worst_token: int  # position in the sample
    local: float | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A position at which the two find different tokens most likely; KL in nats."""

    position: int
    original: int
    converted: int
    kl: float


@dataclass(frozen=True, slots=True)
class Verification:
    """Everything that was measured."""

    sample: Sample
    layers: tuple[LayerError, ...]
    weights: tuple[WeightError, ...]  # that differ, the worst first
    distributions: Distributions
    judgement: Judgement | None = None

    @property
    def identical(self) -> bool:
        return self.distributions.identical

    @property
    def finite(self) -> bool:
        return self.distributions.finite

    @property
    def logit_error(self) -> float:
        return self.distributions.logit_error

    @property
    def positions(self) -> int:
        return len(self.distributions.kl)

    @property
    def kl_mean(self) -> float:
        return float(self.distributions.kl.mean())

    @property
    def kl_interval(self) -> tuple[float, float]:
        """95 % interval of the mean over positions, by the normal approximation."""
        half = NORMAL * float(self.distributions.kl.std(ddof=1)) / sqrt(self.positions) if self.positions > 1 else 0.0
        return max(self.kl_mean - half, 0.0), self.kl_mean + half

    @property
    def kl_median(self) -> float:
        return float(np.median(self.distributions.kl))

    @property
    def kl_largest(self) -> float:
        return float(self.distributions.kl.max())

    @property
    def kl_tail(self) -> float | None:
        """The 99.9th percentile, from 10,000 positions on."""
        return float(np.quantile(self.distributions.kl, 0.999)) if self.positions >= TAIL else None

    @property
    def top1(self) -> float:
        return float(self.distributions.same_top.mean())

    @property
    def top5(self) -> float:
        return float(self.distributions.overlap.mean())

    @property
    def perplexities(self) -> tuple[float, float]:
        """exp of the mean surprise of original and converted; NaN when no position has a next token."""
        known = ~np.isnan(self.distributions.surprise[0])
        with np.errstate(over="ignore", invalid="ignore"):
            found = [float(np.exp(side[known].mean())) if known.any() else float("nan") for side in self._surprise]
        return found[0], found[1]

    @property
    def _surprise(self) -> tuple[Array, Array]:
        return self.distributions.surprise[0], self.distributions.surprise[1]

    def disagreements(self, most: int) -> list[Disagreement]:
        """Positions with different best tokens, the largest KL first."""
        found, top = self.distributions, self.distributions.top
        places = np.flatnonzero(~found.same_top)
        places = places[np.argsort(-found.kl[places], kind="stable")][:most]
        return [Disagreement(int(p), int(top[0, p, 0]), int(top[1, p, 0]), float(found.kl[p])) for p in places]


def verify(request: Request, progress: Progress | None = None) -> Verification:
    """Run both and compare. Raises ModelkitError; Refused when they are no conversions of one another."""
    original, converted = load(request.original), load(request.converted)
    check_alike(original, converted)
    chosen = sample(request, original, converted)
    weights = compare_weights(original, converted)
    passes = list(chosen.passes(PASS))
    total = len(passes) * original.config.layers
    states = _States(original.config.layers, local=request.local)
    found = []
    for number, ids in enumerate(passes):
        done = number * original.config.layers
        found.append(_one_pass(original, converted, ids, states, _shifted(progress, done, total)))
    distributions = joined(found)
    result = Verification(chosen, states.errors(), weights, distributions)
    if request.gate is None:
        return result
    judgement = judge(request.gate, result)
    return Verification(chosen, result.layers, weights, distributions, judgement)


def check_alike(original: Loaded, converted: Loaded) -> None:
    """The two must be the same network: same family, same sizes."""
    one, other = original.config, converted.config
    if original.architecture.name != converted.architecture.name:
        message = f"a {original.architecture.name} and a {converted.architecture.name} cannot be compared"
        raise Refused(message, "give a model and its own conversion")
    for what in ("layers", "hidden", "heads", "kv_heads", "head_dim", "feed_forward", "vocabulary"):
        if getattr(one, what) != getattr(other, what):
            values = f"{getattr(one, what):,} and {getattr(other, what):,}"
            raise Refused(f"the two models differ in {what}: {values}", "give a model and its own conversion")


def compare_weights(original: Loaded, converted: Loaded) -> tuple[WeightError, ...]:
    """Every tensor whose real values differ, the worst run first."""
    found = []
    for name in original.weights.tensors:
        if name not in converted.weights:
            raise Refused(f"'{name}' is missing in the converted model", "convert it again from the whole original")
        comparison = WeightComparison(original.tensor_name(name))
        for one, other in zip(original.blocks(name), converted.blocks(name), strict=True):
            comparison.add(one, other)
        error = comparison.result()
        if error.worst or not error.finite:
            found.append(error)
    return tuple(sorted(found, key=lambda error: (-error.worst, error.tensor)))


class _States:
    """Sums over passes of what is measured at each layer."""

    def __init__(self, layers: int, *, local: bool) -> None:
        self.local = local
        self._squares = np.zeros((layers, 4))  # apart, size, local apart, size of the layer's own share
        self._cosines: list[list[Array]] = [[] for _ in range(layers)]

    def add(self, layer: int, original: F32, converted: F32) -> None:
        """States after a layer: float32 [batch, tokens, hidden]."""
        self._squares[layer, 0] += _squared(converted - original)
        self._squares[layer, 1] += _squared(original)
        self._cosines[layer].append(cosines(original, converted))

    def add_local(self, layer: int, before: F32, original: F32, converted: F32) -> None:
        """States after a layer of either model that were both fed with `before`."""
        self._squares[layer, 2] += _squared(converted - original)
        self._squares[layer, 3] += _squared(original - before)

    def errors(self) -> tuple[LayerError, ...]:
        found = []
        for layer, (apart, size, local, share) in enumerate(self._squares.tolist()):
            each = np.concatenate(self._cosines[layer])
            worst = int(each.argmin())
            own = _ratio(local, share) if self.local else None
            found.append(LayerError(layer, _ratio(apart, size), float(each.mean()), float(each[worst]), worst, own))
        return tuple(found)


def _one_pass(
    original: Loaded, converted: Loaded, ids: Array, states: _States, progress: Callable[[int], None]
) -> Distributions:
    """All layers of both on one batch of windows: int [windows, tokens]."""
    one, other = original.decoder(ids.shape[1]), converted.decoder(ids.shape[1])
    x, y = one.embed(ids), other.embed(ids)
    for layer in range(original.config.layers):
        before, same = x, x.tobytes() == y.tobytes() if states.local else False
        x, y = one.block(layer, x), other.block(layer, y)
        states.add(layer, x, y)
        if states.local:
            states.add_local(layer, before, x, y if same else other.block(layer, before))
        progress(layer + 1)
    following = np.full(ids.shape, -1, np.int64)
    following[:, :-1] = ids[:, 1:]
    comparison = Comparison(following.reshape(-1))
    for (first, logits), (_, others) in zip(one.head_blocks(x), other.head_blocks(y), strict=True):
        comparison.add(first, logits.reshape(-1, logits.shape[-1]), others.reshape(-1, others.shape[-1]))
    return comparison.result()


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda layers: progress(done + layers, total) if progress else None


def _squared(values: F32) -> float:
    flat = values.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _ratio(squares: float, size: float) -> float:
    return sqrt(squares / size) if size else (0.0 if not squares else float("inf"))
