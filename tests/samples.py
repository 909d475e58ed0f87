"""What tests share: where things are, and small models made on the spot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STORIES = ROOT / "fixtures" / "stories" / "model"
DATA = Path(os.environ.get("MODELKIT_SHARED_DATA", ROOT.parent / "shared" / "data"))


def interruptible() -> None:
    """For a child that will be interrupted: a shell may have started these tests with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def small_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """A few float32 arrays of an unknown architecture: matrices, a vector, integers, a mask."""
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((64, 256), dtype=np.float32),
        "b.weight": rng.standard_normal((48, 64), dtype=np.float32),
        "norm.weight": rng.standard_normal(64, dtype=np.float32),
        "steps": np.arange(5, dtype=np.int64),
    }
