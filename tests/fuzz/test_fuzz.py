"""Every parser takes any bytes: the exhibits, chance mutations of them, and for a while what atheris finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from rules_museum import museum_script
from samples import ROOT

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import by_chance
from seeds import seeds
from targets import TARGETS


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz") / "museum"
    museum_script.build(folder)
    yield folder
    assert not list((folder / "markers").iterdir()), "a payload ran"


@pytest.mark.parametrize("name", list(TARGETS))
def test_seeds_and_chance_mutations(name: str, museum: Path) -> None:
    known = list(seeds(name, museum))
    assert known
    for data in known:
        TARGETS[name](data)
        for size in range(0, min(len(data), 4096), 97):
            TARGETS[name](data[:size])
    assert by_chance(TARGETS[name], known, seconds=3, most=400) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)")
def test_a_guided_run(name: str, tmp_path: Path) -> None:
    # a shell between: a child's high-water mark of memory begins with its parent's, and libFuzzer would go by it
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, str(ROOT / "tests" / "fuzz" / "run.py"), name]
    # the same chance every time, so that what stops a change is mostly that change; run.py itself takes another
    command += ["--seconds", "60", "--runs", "20000", "--seed", "1", "--corpus", str(tmp_path)]
    same = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=same)
    assert done.returncode == 0, done.stderr[-3000:]
