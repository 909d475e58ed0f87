"""What a verification will cost, from headers alone and a few samples of this machine's speed.

Every part of the work is a count times a speed: weights decoded (by encoding), products (weights times
tokens), weights compared, logits compared. The counts follow from shapes, so the time of a model that does
not fit on the disk yet is known, and it grows with each count in proportion.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.lazy import np
from modelkit.metrics.distributions import Comparison
from modelkit.metrics.weight_errors import WeightComparison
from modelkit.operations.runnable import Runnable, runnable
from modelkit.operations.sample import sample
from modelkit.operations.verify import PASS, Request, check_alike
from modelkit.runner.canonical import BLOCK
from modelkit.runner.decoder import RUN
from modelkit.runs import layout_of

if TYPE_CHECKING:
    from modelkit.tensors import Encoding

SAMPLE = 1 << 20  # values of a timing sample
GROUPED = 6e-9  # seconds a weight of a layout's, in numpy; measured on 4096 x 4096
RUNS = 6
COLD = 1.25  # a real run finds its caches cold: bench/verify.py measured so much more than samples, 135M to 1.1B
STANDING = 60 * 2**20  # bytes of Python and numpy before any work
STARTING = 0.3  # seconds until numpy and the headers are there
BUFFERS = 8  # blocks of float32 in use at once: decoded, stepped, multiplied, compared, of both models


@dataclass(frozen=True, slots=True)
class VerifyPlan:
    """Seconds of processor time, bytes of memory at most, bytes to read."""

    seconds: float
    memory: int
    reading: int
    tokens: int
    layers: int


def prepare(request: Request) -> VerifyPlan:
    """The plan of a request."""
    original, converted = runnable(request.original), runnable(request.converted)
    check_alike(original, converted)
    chosen = sample(original, converted, request.tokens_file, request.text, request.tokenizer)
    window = max(len(window) for window in chosen.windows)
    return plan(original, converted, chosen.tokens, window, local=request.local)


def plan(original: Runnable, converted: Runnable, tokens: int, window: int, *, local: bool) -> VerifyPlan:
    """Nothing but headers is read. `tokens` in all, in windows of `window`."""
    passes = -(-tokens // max(PASS // window * window, window))
    products = logits = 0
    decoding: dict[Encoding, int] = {}
    for side, times in ((original, 1), (converted, 2 if local else 1)):
        for name, tensor in side.tensors.items():
            count = tensor.tensor.count
            if len(tensor.shape) < 2:
                continue
            used = _uses(side, name)
            products += count * tokens * times * used
            decoding[tensor.tensor.encoding] = decoding.get(tensor.tensor.encoding, 0) + count * (
                1 + passes * times * used
            )
    logits = original.config.vocabulary * tokens
    weights = sum(tensor.tensor.count for tensor in original.tensors.values())
    seconds = sum(count * _decode_speed(encoding) for encoding, count in decoding.items())
    seconds += products * _product_speed(original.config.hidden, min(tokens, RUN))
    seconds += weights * _weight_speed() + logits * _logit_speed()
    seconds += _attention(original, tokens, window) * (3 if local else 2)
    reading = sum(span.size for side in (original, converted) for span in side.opened.model.spans.values())
    reading *= passes + 1
    seconds = STARTING + COLD * (seconds + reading * _copy_speed())
    return VerifyPlan(seconds, _memory(original, tokens), reading, tokens, original.config.layers)


def _uses(side: Runnable, name: str) -> int:
    """How often a pass multiplies by a matrix: an embedding is looked up, a tied one serves as the head."""
    if name != "token_embd.weight":
        return 1
    return 0 if "output.weight" in side.tensors else 1


def _attention(side: Runnable, tokens: int, window: int) -> float:
    """Seconds of scores and mixing of all layers, for one model."""
    config = side.config
    scores = config.layers * config.heads * tokens * window
    return scores * (2 * config.head_dim * _product_speed(config.head_dim, window) + _SOFTMAX)


_SOFTMAX = 3e-9  # seconds a score: scale, mask, exp, normalise; of small weight beside the products


def _memory(side: Runnable, tokens: int) -> int:
    """Bytes at most: the process itself, blocks of weights, states of both models, one run through a layer, logits."""
    config, together = side.config, min(tokens, PASS)
    width = max(config.feed_forward, config.heads * config.head_dim, config.hidden)
    states = together * config.hidden * 4 * 6
    layer = min(tokens, RUN) * width * 4 * 4
    logits = together * max(BLOCK // config.hidden, 64) * 4 * 7
    return STANDING + BUFFERS * BLOCK * 4 + states + max(layer, logits)


def _seconds(work: Callable[[], object]) -> float:
    """Processor time of the quickest of some runs: what else happens on the machine only makes them slower."""
    found = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def _decode_speed(encoding: Encoding) -> float:
    """Seconds a value."""
    if layout_of(encoding):
        return GROUPED  # its bytes cannot be made up, and all of them are decoded alike
    unit = encoding.unit((SAMPLE,))
    count = SAMPLE // unit * unit
    stored = [np.zeros(part.size, np.uint8) for part in encoding.parts("sample", (count,))]
    return _seconds(lambda: encoding.unpack(stored, (count,))) / count


def _product_speed(columns: int, tokens: int) -> float:
    """Seconds a weight and token."""
    rows = max(SAMPLE // columns, 1)
    weights, states = np.ones((rows, columns), np.float32), np.ones((tokens, columns), np.float32)
    return _seconds(lambda: states @ weights.T) / (rows * columns * tokens)


def _copy_speed() -> float:
    """Seconds a byte that comes out of the system's cache; a slow disk adds waiting, not processor time."""
    data = np.ones(4 * SAMPLE, np.uint8)
    return _seconds(data.copy) / data.nbytes


def _weight_speed() -> float:
    """Seconds a weight that is compared."""
    values = np.ones((SAMPLE // 1024, 1024), np.float32)
    others = values * np.float32(1.01)
    return _seconds(lambda: WeightComparison("sample").add(values, others)) / SAMPLE


def _logit_speed() -> float:
    """Seconds a logit of both models that is compared."""
    values = np.random.default_rng(0).standard_normal((64, SAMPLE // 64), dtype=np.float32)
    others = values + np.float32(0.01)
    return _seconds(lambda: Comparison(np.zeros(64, np.int64)).add(0, values, others)) / SAMPLE
