"""Large bundles, and what is left when the power goes: slow tests."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import bf16, make_tree, picture, safetensors
from samples import Run

pytestmark = pytest.mark.slow
MOMENTS = 30


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def run_for(seconds: float, *arguments: object) -> int | None:
    """Start a command and kill it like a power cut does; None where it was done before."""
    child = subprocess.Popen(
        [sys.executable, "-m", "modelkit", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        return None


def took(*arguments: object) -> float:
    since = time.monotonic()
    assert run_for(600, *arguments) == 0
    return time.monotonic() - since


def test_killed_at_30_moments(tmp_path: Path) -> None:
    """Each rerun is killed again, until one comes through: the same bytes as of a run that was left alone."""
    source = make_tree(tmp_path / "s", rows=20_000)
    create = ("--volume-size", "8MiB", "--parity", "2")
    seconds = took("bundle", "create", source, tmp_path / "whole", *create)
    chance, killed = random.Random(7), 0
    while killed < MOMENTS:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        for _ in range(4):
            done = run_for(chance.uniform(0.2, seconds), "bundle", "create", source, tmp_path / "b", *create)
            killed += done is None
            finals = [path for path in (tmp_path / "b").glob("*.mkv") if path.name.startswith("vol")]
            assert all(path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes() for path in finals)
            if done is not None:
                break
        if done is None:
            assert run_for(600, "bundle", "create", source, tmp_path / "b", *create) == 0
        assert picture(tmp_path / "b") == picture(tmp_path / "whole")
    there = picture(source)
    seconds, killed = took("bundle", "unpack", tmp_path / "whole", tmp_path / "first"), 0
    while killed < MOMENTS:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        for _ in range(4):
            done = run_for(chance.uniform(0.2, seconds), "bundle", "unpack", tmp_path / "whole", tmp_path / "out")
            killed += done is None
            here = picture(tmp_path / "out") if (tmp_path / "out").exists() else {}
            assert all(there[name] == found for name, found in here.items() if not name.startswith(".modelkit"))
            if done is not None:
                break
        if done is None:
            assert run_for(600, "bundle", "unpack", tmp_path / "whole", tmp_path / "out") == 0
        assert picture(tmp_path / "out") == there


def test_four_gib_in_shards(tmp_path: Path, run: Run) -> None:
    """A sharded model of 4 GiB: byte for byte, within 250 MiB of memory."""
    source = tmp_path / "s"
    source.mkdir()
    for shard in range(4):
        rows = [bf16(8192, seed) for seed in range(8 * shard, 8 * shard + 8)]
        tensors = {f"{shard}.{number}": ("BF16", np.concatenate([row] * 8)) for number, row in enumerate(rows)}
        for name, (dtype, values) in tensors.items():
            values[:, 0] = np.arange(len(values)) * (1 + int(name[0]))  # equal rows, but no equal pieces
            tensors[name] = (dtype, values)
        safetensors(source / f"model-{shard}.safetensors", tensors)
    size = sum(path.stat().st_size for path in source.iterdir())
    assert size > 4 << 30
    for arguments in (
        ("create", source, tmp_path / "b", "--volume-size", "700MB", "--parity", "1"),
        ("verify", tmp_path / "b"),
        ("unpack", tmp_path / "b", tmp_path / "out"),
    ):
        child = subprocess.Popen([sys.executable, "-m", "modelkit", "bundle", *map(str, arguments)])
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        assert usage.ru_maxrss < 250 << 10, arguments[0]
    for path in source.iterdir():
        assert subprocess.run(["cmp", path, tmp_path / "out" / path.name], check=False).returncode == 0


def test_a_disk_that_is_full(tmp_path: Path, run: Run) -> None:
    """Half of what is needed: a clear error, and the same bytes when the limit is gone."""
    source = make_tree(tmp_path / "s", rows=4000)
    assert run("bundle", "create", source, tmp_path / "whole").returncode == 0

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    done = run("bundle", "create", source, tmp_path / "b", preexec_fn=limited)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert run("bundle", "create", source, tmp_path / "b").returncode == 0
    assert picture(tmp_path / "b") == picture(tmp_path / "whole")
