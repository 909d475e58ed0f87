"""How many bytes a run needs besides the matrices that it keeps, and how many the machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from modelkit.architectures._contract import Config
from modelkit.runner.attention import SCORES
from modelkit.runner.canonical import BLOCK
from modelkit.runner.decoder import RUN

BASE = 96 << 20
"""Python, numpy and the buffers of its matrix kernels."""

UNKNOWN = 8 << 30  # where the system does not say how much memory it has
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def half_of_memory() -> int:
    """Half of what this machine, or the container, has."""
    found = [UNKNOWN]
    with suppress(OSError, ValueError, AttributeError):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        found.append(int(LIMIT.read_text()))  # "max" where there is no limit
    return min(found) // 2


def working(config: Config, batch: int, tokens: int, cached: int, decoded: int = BLOCK) -> int:
    """Bytes for `tokens` of each of `batch` sequences going through at once, with caches of `cached` positions.

    cached = 0: none are kept from layer to layer, only those of one layer. decoded: the most values of a
    tensor that are decoded at once.
    """
    at_once = batch * min(tokens, RUN)
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    widths = 5 * config.hidden + 3 * q + 3 * kv + 3 * config.feed_forward
    caches = (config.layers * cached if cached else tokens) * 2 * kv * batch
    scores = 3 * min(SCORES, batch * config.heads * min(tokens, RUN) * max(tokens, cached))
    blocks = 5 * decoded
    return BASE + 4 * (at_once * widths + 3 * batch * tokens * config.hidden + caches + scores + blocks)
