"""Threads of the matrix kernels: the free cores, unless the user said otherwise."""

from __future__ import annotations

import os
import sys

import pytest

from modelkit.runner.threads import VARIABLES, use_free_cores


@pytest.mark.parametrize(("cores", "load", "threads"), [(8, 0.2, "8"), (8, 2.7, "5"), (2, 6.0, "1"), (1, 0.0, "1")])
def test_free_cores_are_used(cores: int, load: float, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    use_free_cores()
    assert {os.environ[name] for name in VARIABLES} == {threads}


def test_the_users_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use_free_cores()
    assert "OPENBLAS_NUM_THREADS" not in os.environ and os.environ["OMP_NUM_THREADS"] == "3"
