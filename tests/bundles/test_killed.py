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

from modelkit.bundles import unpack as receiver

pytestmark = pytest.mark.slow
MOMENTS = 30


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


RECEIVERS = {
    "modelkit": [sys.executable, "-m", "modelkit", "bundle"],
    "unpack.py": [sys.executable, "-S", "-I", receiver.__file__],
}


def run_for(seconds: float, *arguments: object, program: str = "modelkit") -> int | None:
    """Start a command and kill it like a power cut does; None where it was done before."""
    child = subprocess.Popen(
        [*RECEIVERS[program], *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        return None


def took(*arguments: object, program: str = "modelkit") -> float:
    since = time.monotonic()
    assert run_for(600, *arguments, program=program) == 0
    return time.monotonic() - since


def test_create_is_killed_at_30_moments(tmp_path: Path) -> None:
    """Each rerun is killed again, until one comes through: the same bytes as of a run that was left alone."""
    source = make_tree(tmp_path / "s", rows=20_000)
    create = ("--volume-size", "8MiB", "--parity", "2")
    seconds = took("create", source, tmp_path / "whole", *create)
    chance, killed = random.Random(7), 0
    while killed < MOMENTS:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        for _ in range(4):
            done = run_for(chance.uniform(0.2, seconds), "create", source, tmp_path / "b", *create)
            killed += done is None
            finals = [path for path in (tmp_path / "b").glob("*.mkv") if path.name.startswith("vol")]
            assert all(path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes() for path in finals)
            if done is not None:
                break
        if done is None:
            assert run_for(600, "create", source, tmp_path / "b", *create) == 0
        assert picture(tmp_path / "b") == picture(tmp_path / "whole")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 40 MB that both receivers can read; its source lies beside it."""
    folder = tmp_path_factory.mktemp("killed")
    make_tree(folder / "s", rows=20_000)
    create = ("--volume-size", "8MiB", "--parity", "2", "--portable", "-q")
    assert run_for(600, "create", folder / "s", folder / "b", *create) == 0
    return folder


@pytest.mark.parametrize("program", RECEIVERS)
def test_unpack_is_killed_at_30_moments(program: str, made: Path, tmp_path: Path) -> None:
    """Nothing but whole files under final names, and the rerun goes on to the same bytes."""
    there, chance, killed = picture(made / "s"), random.Random(8), 0
    seconds = took("unpack", made / "b", tmp_path / "first", program=program)
    words = ("unpack", made / "b", tmp_path / "out")
    while killed < MOMENTS:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        for _ in range(4):
            done = run_for(chance.uniform(0.05, seconds), *words, program=program)
            killed += done is None
            here = picture(tmp_path / "out") if (tmp_path / "out").exists() else {}
            assert all(there[name] == found for name, found in here.items() if not name.startswith(".modelkit"))
            if done is not None:
                break
        if done is None:
            assert run_for(600, *words, program=program) == 0
        assert picture(tmp_path / "out") == there


@pytest.mark.parametrize("program", RECEIVERS)
def test_repair_is_killed_at_30_moments(program: str, made: Path, tmp_path: Path) -> None:
    """A volume has its name when it is whole; the rerun ends in the bytes that were written once."""
    whole, chance, killed, seconds = picture(made / "b"), random.Random(9), 0, 0.0
    bundle = tmp_path / "b"
    while killed < MOMENTS:
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(made / "b", bundle)
        (bundle / "vol-0001.mkv").unlink()
        with (bundle / "par-0001.mkv").open("r+b") as file:
            file.truncate(1 << 20)
        if not seconds:
            seconds = took("repair", bundle, program=program)
            continue
        for _ in range(4):
            done = run_for(chance.uniform(0.05, seconds), "repair", bundle, program=program)
            killed += done is None
            now = picture(bundle)
            assert now.get("vol-0001.mkv", whole["vol-0001.mkv"]) == whole["vol-0001.mkv"]
            if done is not None:
                break
        if done is None:
            assert run_for(600, "repair", bundle, program=program) == 0
        after = picture(bundle)
        assert {name: digest for name, digest in after.items() if name in whole} == whole
        assert not [name for name in after if name.endswith(".mkv.part") and program == "unpack.py"]


def shard(folder: str, number: int) -> None:
    """A file of 1 GiB: eight tensors, no two pieces of which are equal."""
    rng = np.random.default_rng(number)
    tensors = {}
    for tensor in range(8):
        values = np.concatenate([bf16(8192, 8 * number + tensor)] * 8)  # [65,536, 1024]
        values[:, :4] = rng.integers(0, 1 << 16, (len(values), 4), dtype=np.uint16)
        tensors[f"{number}.{tensor}"] = ("BF16", values)
    safetensors(Path(folder) / f"model-{number}.safetensors", tensors)


def make_shard(folder: Path, number: int) -> None:
    """In a process of its own, which takes its memory with it."""
    maker = "import sys; from test_killed import shard; shard(sys.argv[1], int(sys.argv[2]))"
    paths = f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parent.parent}"
    paths += os.pathsep + os.environ.get("PYTHONPATH", "")
    command = [sys.executable, "-c", maker, folder, str(number)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


LIMIT = 250 << 10  # KiB
MEASURED = """import os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stdout=sys.stderr).pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))"""


def peak(*arguments: object, program: str = "modelkit") -> int:
    """The most memory of a command in KiB. Started by a small process: what a parent holds counts for its children."""
    command = [sys.executable, "-S", "-c", MEASURED, *RECEIVERS[program], *map(str, arguments)]
    found = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(program, arguments[0], found >> 10, "MiB at most")
    return found


def test_four_gib_in_shards(tmp_path: Path) -> None:
    """A sharded model of 4 GiB: byte for byte, within 250 MiB of memory."""
    source = tmp_path / "s"
    source.mkdir()
    for number in range(4):
        make_shard(source, number)
    assert sum(path.stat().st_size for path in source.iterdir()) > 4 << 30
    for arguments in (
        ("create", source, tmp_path / "b", "--volume-size", "700MB", "--parity", "1"),
        ("verify", tmp_path / "b"),
        ("unpack", tmp_path / "b", tmp_path / "out"),
    ):
        assert peak(*arguments) < LIMIT, arguments[0]
    (tmp_path / "b" / "vol-0002.mkv").unlink()
    assert peak("repair", tmp_path / "b") < LIMIT
    for path in source.iterdir():
        assert subprocess.run(["cmp", path, tmp_path / "out" / path.name], check=False).returncode == 0


def test_a_gib_with_the_standard_library_alone(tmp_path: Path) -> None:
    """unpack.py keeps to the same memory: verify, repair, unpack."""
    source = tmp_path / "s"
    source.mkdir()
    make_shard(source, 0)
    assert peak("create", source, tmp_path / "b", "--volume-size", "200MB", "--parity", "1", "--portable") < LIMIT
    for arguments in (("verify", tmp_path / "b"), ("unpack", tmp_path / "b", tmp_path / "out")):
        assert peak(*arguments, program="unpack.py") < LIMIT, arguments[0]
    (tmp_path / "b" / "vol-0002.mkv").unlink()
    assert peak("repair", tmp_path / "b", program="unpack.py") < LIMIT
    assert run_for(600, "verify", tmp_path / "b", program="unpack.py") == 0
    assert picture(tmp_path / "out") == picture(source)


def test_a_file_that_cannot_grow(tmp_path: Path, run: Run) -> None:
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
