"""Fixtures that all tests share: the command line, shared data, the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more threads than free cores make products many times slower

from samples import DATA, STORIES, Run

from modelkit import kernels

# no example is judged by the clock; CI (the variable) tries the same examples every time, other runs try new ones
settings.register_profile(
    "modelkit", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("modelkit")


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


@pytest.fixture(scope="session")
def run() -> Run:
    """Call the command line as a process; `run("inspect", path)` gives returncode, stdout, stderr."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelkit", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=300, check=False, **options
        )  # type: ignore[call-overload]

    return call


@pytest.fixture(params=["numpy", "plain", "avx2"])
def every_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test with numpy and with each build of the C extension that this machine has."""
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "native", lambda: None)
        yield "numpy"
        return
    extension = native_or_skip()
    before = extension.use()
    try:
        extension.use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(kernels, "native", lambda: extension)
    yield request.param
    extension.use(before)


def native_or_skip() -> Any:
    try:
        return import_module("modelkit.kernels._native")
    except ImportError:
        pytest.skip("the C extension is not built: numpy does the work")
