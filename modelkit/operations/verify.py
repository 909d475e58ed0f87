"""Prove a conversion by running both sides, one layer of each in memory at a time.

Both models see the same tokens. Layer by layer their hidden states are compared, at the end the
distributions that they predict, and beside them the weights themselves. Both run in one canonical order of
q and k, in the same blocks of rows, so a lossless conversion gives the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.errors import Refused
from modelkit.lazy import np
from modelkit.metrics.distributions import Comparison, Distributions, joined
from modelkit.metrics.hidden_states import cosines, squares
from modelkit.metrics.weight_errors import WeightComparison, WeightError
from modelkit.operations.gates import Gate, Judgement, judge
from modelkit.operations.runnable import Runnable, runnable
from modelkit.operations.sample import Sample, sample
from modelkit.runner.decoder import Decoder
from modelkit.runner.weights import Weights

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

PASS = 2048
"""Tokens that go through both models together: their hidden states are what memory holds beside one layer."""

TAIL = 10_000  # positions from which the 99.9th percentile means something
PAIR = "give a model and its own conversion"
AGAIN = "convert it again from the whole original"
STATUS = Path("/proc/self/status")
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


def input_paths(request: Request) -> list[Path]:
    """Everything that is read: what a report may not replace."""
    named = (request.original, request.converted, request.tokens_file, request.text, request.tokenizer)
    return [Path(name) for name in named if name is not None]


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
    memory: int | None = None  # bytes that this process has used at most, where the system tells
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
        if self.positions < 2:
            return 0.0, inf  # one position says nothing of the others
        half = NORMAL * float(self.distributions.kl.std(ddof=1)) / sqrt(self.positions)
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
    original, converted = runnable(request.original), runnable(request.converted)
    check_alike(original, converted)
    chosen = sample(original, converted, request.tokens_file, request.text, request.tokenizer)
    weights = compare_weights(original, converted)
    passes = list(chosen.passes(PASS))
    total = len(passes) * original.config.layers
    states = _States(original.config.layers, local=request.local)
    found = []
    for number, ids in enumerate(passes):
        done = number * original.config.layers
        found.append(_one_pass(original, converted, ids, states, _shifted(progress, done, total)))
    distributions = joined(found)
    result = Verification(chosen, states.errors(), weights, distributions, peak_memory())
    return result if request.gate is None else replace(result, judgement=judge(request.gate, result))


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had at once; None where the system does not tell."""
    if STATUS.exists():  # rusage also counts what the parent had before this process began
        line = next((line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")), "")
        return int(line.split()[1]) * 1024 if line else None
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def check_alike(original: Runnable, converted: Runnable) -> None:
    """The two must be the same network: same family, same sizes."""
    one, other = original.config, converted.config
    families = [str(side.known.architecture and side.known.architecture.name) for side in (original, converted)]
    if families[0] != families[1]:
        message = f"a {families[0]} and a {families[1]} cannot be compared"
        raise Refused(message, PAIR)
    for what in ("layers", "hidden", "heads", "kv_heads", "head_dim", "feed_forward", "vocabulary"):
        if getattr(one, what) != getattr(other, what):
            values = f"{getattr(one, what):,} and {getattr(other, what):,}"
            raise Refused(f"the two models differ in {what}: {values}", PAIR)


def compare_weights(original: Runnable, converted: Runnable) -> tuple[WeightError, ...]:
    """Every tensor whose real values differ, the worst run first."""
    one, other = original.weights(), converted.weights()
    found = []
    for name, tensor in original.tensors.items():
        if name not in converted.tensors:
            raise Refused(f"'{tensor.tensor.name}' is missing in {converted.opened.opener.title}", AGAIN)
        comparison = WeightComparison(converted.tensors[name].tensor.name)
        for before, after in zip(_blocks(one, name), _blocks(other, name), strict=True):
            comparison.add(before, after)
        error = comparison.result()
        if error.worst or not error.finite:
            found.append(error)
    return tuple(sorted(found, key=lambda error: (-error.worst, error.tensor)))


def _blocks(weights: Weights, name: str) -> Iterator[F32]:
    """A tensor in runs of rows; the same runs for the same shape."""
    if len(weights.shape(name)) > 1:
        yield from (rows for _, rows in weights.blocks(name))
    else:
        yield weights.vector(name)


class _States:
    """Sums over passes of what is measured at each layer."""

    def __init__(self, layers: int, *, local: bool) -> None:
        self.local = local
        self._squares = np.zeros((layers, 4))  # apart, size, local apart, size of the layer's own share
        self._cosines: list[list[Array]] = [[] for _ in range(layers)]

    def add(self, layer: int, original: F32, converted: F32) -> None:
        """States after a layer: float32 [batch, tokens, hidden]."""
        self._squares[layer, 0] += squares(converted - original)
        self._squares[layer, 1] += squares(original)
        self._cosines[layer].append(cosines(original, converted))

    def add_local(self, layer: int, before: F32, original: F32, converted: F32) -> None:
        """States after a layer of either model that were both fed with `before`."""
        self._squares[layer, 2] += squares(converted - original)
        self._squares[layer, 3] += squares(original - before)

    def errors(self) -> tuple[LayerError, ...]:
        found = []
        for layer, (apart, size, local, share) in enumerate(self._squares.tolist()):
            each = np.concatenate(self._cosines[layer])
            worst = int(each.argmin())
            own = _ratio(local, share) if self.local else None
            found.append(LayerError(layer, _ratio(apart, size), float(each.mean()), float(each[worst]), worst, own))
        return tuple(found)


def _one_pass(
    original: Runnable, converted: Runnable, ids: Array, states: _States, progress: Callable[[int], None]
) -> Distributions:
    """All layers of both on one batch of windows: int [windows, tokens]."""
    one, other = (Decoder(side.weights(), side.config, ids.shape[1]) for side in (original, converted))
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


def _ratio(squares: float, size: float) -> float:
    return sqrt(squares / size) if size else (0.0 if not squares else float("inf"))
