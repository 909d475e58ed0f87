"""Seal a model, and prove on the far side, without the original, that what came out of a bundle still behaves.

A seal holds what the runner predicts for 128 tokens: the ten most likely tokens after each and their log
probabilities. A model of the same values gives the same to within rounding, whatever kernels, threads and
processor compute it; how much rounding does is measured when the seal is made, by running the sequence a second time
with every state moved by up to half a unit in its last place after each layer. A converted model is judged by a gate:
the KL divergence over the recorded tokens and the rest as one is at most that over all tokens (data processing
inequality), and close to it.

A seal is no signature: it shows accidents and honest mistakes, and its own origin must be known by other means.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.bundles.seal import POSITIONS, STEP, TOP, Seal, parse
from modelkit.errors import BadValue, CannotAccess, Refused, Unsupported
from modelkit.lazy import np
from modelkit.operations.bundle_open import standing
from modelkit.operations.checksum_model import digest_of
from modelkit.operations.gates import GATES, Gate, Judgement
from modelkit.operations.runnable import Runnable, runnable
from modelkit.operations.sample import sample
from modelkit.runner.decoder import Decoder
from modelkit.sources import explained, open_file

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

FILE = "SEAL.json"
ROUNDING = 2.0**-23  # relative distance of neighbouring float32
SEED = 0
NORMAL = 1.96  # half of a 95 % interval, in standard errors
REST = 1e-9  # probability below which the tokens that are not recorded are no more than rounding

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a model differs from a seal. KL in nats, over the recorded tokens and all others as one."""

    seal: Seal
    deviation: float  # root mean square of the differences of log probabilities, nats
    largest: float  # the largest of them
    kl: Array  # float64 [positions]
    top1: float  # the share of positions with the same most likely token
    same_values: bool | None  # by the model digest; None where one of the two has none
    judgement: Judgement

    @property
    def behaves_the_same(self) -> bool:
        """Whether rounding alone explains the difference."""
        return self.deviation <= self.seal.limit

    @property
    def positions(self) -> int:
        return len(self.kl)

    @property
    def kl_mean(self) -> float:
        return float(self.kl.mean())

    @property
    def kl_interval(self) -> tuple[float, float]:
        """95 % interval of the mean over positions; of one position nothing follows for others."""
        spread = float(self.kl.std(ddof=1)) if self.positions > 1 else float("inf")
        half = NORMAL * spread / sqrt(self.positions)
        return max(self.kl_mean - half, 0.0), self.kl_mean + half

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of the agreement (Wilson's, which holds near 1 too)."""
        n, square = self.positions, NORMAL**2
        middle = (self.top1 + square / (2 * n)) / (1 + square / n)
        half = NORMAL / (1 + square / n) * sqrt(self.top1 * (1 - self.top1) / n + square / (4 * n * n))
        return middle - half, middle + half


def make(path: Path | str, progress: Progress | None = None) -> bytes:
    """The seal of a model, at most 16 KB; memory holds one layer at a time.

    Raises Unsupported for a family that the runner does not know exactly, BadValue where it computes no numbers.
    """
    model = runnable(path)
    chosen = sample(model, model, None, None, None)
    ids = chosen.windows[0][:POSITIONS]
    count = min(TOP, model.config.vocabulary)
    decoder = Decoder(model.weights(), model.config, len(ids))
    states = _states(decoder, np.stack([ids, ids]), progress, shaken=True)
    top = _most_likely(decoder, states[:1], count)
    scores, _ = _scores(decoder, states, top)
    noise = max(_root_mean_square(scores[1] - scores[0]), STEP)
    form, digest = _digest(model)
    architecture = model.known.architecture
    family = architecture.name if architecture else ""
    words = f"{len(ids)} tokens of {chosen.origin.partition(' of ')[2] or chosen.origin}"
    name = os.path.basename(os.path.abspath(path))
    return Seal(
        name, family, model.config.layers, model.config.vocabulary, form, digest, words, ids, top, scores[0], noise
    ).pack()


def check(data: bytes, path: Path | str, gate: Gate | None = None, progress: Progress | None = None) -> Comparison:
    """Hold a model against a seal. Without a gate: `lossless`, the same values and the same predictions.

    Raises BrokenFile for what is no seal, Refused for a model that cannot be the sealed one in any encoding.
    """
    seal, model = parse(data), runnable(path)
    found = (str(model.known.architecture and model.known.architecture.name), model.config.layers)
    if (*found, model.config.vocabulary) != (seal.family, seal.layers, seal.vocabulary):
        message = (
            f"{model.opened.opener.title}: a {found[0]} of {found[1]} layers and {model.config.vocabulary:,} tokens"
        )
        sealed = f"the seal is of a {seal.family} of {seal.layers} layers and {seal.vocabulary:,} tokens"
        raise Refused(f"{message}; {sealed}", "name the model that came with the seal")
    decoder = Decoder(model.weights(), model.config, len(seal.ids))
    scores, best = _scores(decoder, _states(decoder, seal.ids[None], progress), seal.top)
    apart = scores[0] - np.maximum(seal.scores, -(2.0**31) * STEP)
    form, digest = _digest(model)
    same = digest == seal.digest if digest and seal.digest and form == seal.form else None
    chosen = gate or GATES["lossless"]
    top1 = float((best[0] == seal.top[:, 0]).mean())
    result = Comparison(
        seal, _root_mean_square(apart), float(np.abs(apart).max()), _divergence(seal.scores, scores[0]), top1, same,
        Judgement(chosen, "passed"),
    )  # fmt: skip
    return _judged(result, chosen)


def read(bundle: Path | str) -> bytes:
    """The seal in a bundle's folder, or in a file that was taken out of it."""
    path = Path(bundle)
    if path.is_dir():
        path = standing(path / FILE)
    if path.name == FILE and path.parent.is_dir() and not path.exists():
        fix = "make the bundle with one: modelkit bundle create MODEL BUNDLE --seal"
        raise CannotAccess(f"{path.parent}: holds no seal ({FILE})", fix)
    with explained(path), os.fdopen(open_file(path), "rb") as file:
        return file.read(1 << 20)


# ---- running


def _states(decoder: Decoder, ids: Array, progress: Progress | None, *, shaken: bool = False) -> F32:
    """The last layer's output [batch, tokens, hidden]; `shaken`: the second sequence meets more rounding."""
    random = np.random.default_rng(SEED)
    x = decoder.embed(ids)
    for layer in range(decoder.config.layers):
        if shaken:
            x[1] *= 1 + np.float32(ROUNDING) * random.uniform(-1, 1, x[1].shape).astype(np.float32)
        x = decoder.block(layer, x)
        if not np.isfinite(x).all():
            raise BadValue(
                f"layer {layer} gives values that are not finite", "look for NaN and infinity in its weights"
            )
        if progress:
            progress(layer + 1, decoder.config.layers)
    return x


def _most_likely(decoder: Decoder, x: F32, count: int) -> Array:
    """Ids [tokens, count] of the largest logits, best first; of equals the lower id."""
    values, ids = np.empty((x.shape[1], 0), np.float32), np.empty((x.shape[1], 0), np.int64)
    for first, logits in decoder.head_blocks(x):
        block = np.arange(first, first + logits.shape[-1])
        values = np.concatenate([values, logits[0]], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(block, logits[0].shape)], axis=1)
        order = np.lexsort((ids, -values), axis=1)[:, :count]
        values, ids = np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return ids


def _scores(decoder: Decoder, x: F32, top: Array) -> tuple[Array, Array]:
    """Log probabilities [batch, tokens, count] of the tokens `top` [tokens, count], float64; the best id of each."""
    shape = x.shape[:2]
    peak, total = np.full(shape, -np.inf), np.zeros(shape)
    best, found = np.zeros(shape, np.int64), np.empty((*shape, top.shape[1]))
    for first, logits in decoder.head_blocks(x):
        if not np.isfinite(logits).all():
            raise BadValue("the logits are not finite", "look for NaN and infinity in the weights of the head")
        wide = logits.astype(np.float64)
        higher = np.maximum(peak, wide.max(axis=2))
        best = np.where(higher > peak, first + wide.argmax(axis=2), best)
        total = total * np.exp(peak - higher) + np.exp(wide - higher[..., None]).sum(axis=2)
        peak = higher
        tokens, places = np.nonzero((top >= first) & (top < first + wide.shape[2]))
        found[:, tokens, places] = wide[:, tokens, top[tokens, places] - first]
    return found - (peak + np.log(total))[..., None], best


def _digest(model: Runnable) -> tuple[str, str]:
    """(form, digest); empty where the digest is not defined for what the model stores."""
    try:
        found = digest_of(model.opened)
    except (BadValue, Unsupported):
        return "", ""
    return found.form, found.digest


# ---- judging


def _root_mean_square(values: Array) -> float:
    return sqrt(float(np.mean(values * values)))


def _divergence(sealed: Array, scores: Array) -> Array:
    """KL(sealed || found) in nats for each position [positions]: over the recorded tokens and the rest as one."""
    p, q = np.exp(sealed), np.exp(scores)
    rest, other = (np.maximum(1 - side.sum(axis=1), 0) for side in (p, q))
    tail = np.zeros_like(rest)
    known = rest > REST
    tail[known] = rest[known] * np.log(rest[known] / np.maximum(other[known], REST))
    total: Array = np.maximum((p * (sealed - scores)).sum(axis=1) + tail, 0)
    return total


def _judged(found: Comparison, gate: Gate) -> Comparison:
    failed, unsure = [], []
    low, high = found.kl_interval
    if gate.identical and found.same_values is False:
        failed.append("its weights are not those that were sealed (the model digests differ)")
    if gate.identical and not found.behaves_the_same:
        words = f"log probabilities are {found.deviation:.1e} nats off, rounding explains {found.seal.limit:.1e}"
        failed.append(words)
    if gate.min_top1 is not None and found.top1_interval[1] < gate.min_top1:
        failed.append(f"top-1 agreement {found.top1:.1%} is below {gate.min_top1:.1%}")
    if gate.max_kl is not None and low > gate.max_kl:
        failed.append(f"mean KL {found.kl_mean:.2e} ({low:.2e} to {high:.2e}) is above {gate.max_kl:g}")
    elif gate.max_kl is not None and high > gate.max_kl:
        unsure.append(f"mean KL {found.kl_mean:.2e} ({low:.2e} to {high:.2e}) straddles {gate.max_kl:g}")
    answer = "failed" if failed else "inconclusive" if unsure else "passed"
    judgement = Judgement(gate, answer, tuple(failed or unsure))  # type: ignore[arg-type]
    return Comparison(found.seal, found.deviation, found.largest, found.kl, found.top1, found.same_values, judgement)
