"""What tests share: the command line, shared data, the embedded model, small models made on the spot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
STORIES = ROOT / "fixtures" / "stories" / "model"
DATA = Path(os.environ.get("MODELKIT_SHARED_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests that take minutes or gigabytes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the shared test data is not there (MODELKIT_SHARED_DATA names it)")
    return DATA


@pytest.fixture(scope="session")
def stories() -> Path:
    """The embedded model, a bf16 Hugging Face folder."""
    return STORIES


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Call the command line as a process; `run("inspect", path)` gives returncode, stdout, stderr."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelkit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False, **options)  # type: ignore[call-overload]

    return call


def small_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """A few float32 arrays of an unknown architecture: matrices, a vector, integers, a mask."""
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((64, 256), dtype=np.float32),
        "b.weight": rng.standard_normal((48, 64), dtype=np.float32),
        "norm.weight": rng.standard_normal(64, dtype=np.float32),
        "steps": np.arange(5, dtype=np.int64),
    }
