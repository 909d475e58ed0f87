"""What `modelkit validate` costs, against the least that each level could cost.

python bench/validate.py [--megabytes 1024] [--tensors 1000000]

full      against a program that reads the file once and hashes it (sha256), in alternating runs
header    a safetensors header of a million tensors: seconds of CPU and peak memory
start-up  CPU of a header-only check of the embedded model, beside `--help`

Who catches what is `bench/museum.py`.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODELKIT = [sys.executable, "-m", "modelkit"]
HASH = """
import hashlib, sys
state, buffer = hashlib.sha256(), bytearray(4 << 20)
with open(sys.argv[1], "rb", buffering=0) as file:
    while count := file.readinto(buffer):
        state.update(memoryview(buffer)[:count])
print(state.hexdigest())
"""


LAUNCH = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
print(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, peak MiB of a process that must end with 0.

    A small program starts it: the peak of a child begins with what its parent holds.
    """
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, cwd=ROOT, check=True
    )
    wall, cpu, memory = map(float, done.stdout.split())
    return wall, cpu, memory


def best(command: list[str], times: int = 5) -> tuple[float, float, float]:
    """The least of each figure over several runs."""
    runs = [measured(command) for _ in range(times)]
    return tuple(min(run[place] for run in runs) for place in range(3))  # type: ignore[return-value]


def write_weights(path: Path, megabytes: int) -> None:
    """Matrices of normal bf16 values, 64 MB each."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(32 << 20, dtype=np.float32).view(np.uint32) >> np.uint32(16)
    data = values.astype(np.uint16).tobytes()
    count = max(megabytes * 10**6 // len(data), 1)
    entries = (
        f'"layers.{n}.weight":{{"dtype":"BF16","shape":[4096,8192],'
        f'"data_offsets":[{n * len(data)},{(n + 1) * len(data)}]}}'
        for n in range(count)
    )
    _write(path, "{" + ",".join(entries) + "}", data, count)


def write_header(path: Path, tensors: int) -> None:
    """As many tensors of two values; the data is a hole in the file."""
    entries = (
        f'"model.layers.{n}.w":{{"dtype":"F16","shape":[1,2],"data_offsets":[{4 * n},{4 * n + 4}]}}'
        for n in range(tensors)
    )
    text = _write(path, "{" + ",".join(entries) + "}", b"", 0)
    os.truncate(path, 8 + text + 4 * tensors)


def _write(path: Path, header: str, data: bytes, count: int) -> int:
    text = header.encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(count):
            file.write(np.roll(np.frombuffer(data, np.uint16), number).tobytes())
    return len(text)


def full(folder: Path, megabytes: int) -> None:
    """The pass over the bytes."""
    path = folder / "big.safetensors"
    write_weights(path, megabytes)
    size = path.stat().st_size
    hashing: list[tuple[float, float, float]] = []
    judging: list[tuple[float, float, float]] = []
    for _ in range(5):
        hashing.append(measured([sys.executable, "-c", HASH, str(path)]))
        judging.append(measured([*MODELKIT, "validate", str(path), "--level", "full", "--no-policy", "-q"]))
    a, b = min(run[0] for run in hashing), min(run[0] for run in judging)
    cpu = min(run[1] for run in judging)
    memory = max(run[2] for run in judging)
    print(f"full      {size / 1e6:,.0f} MB: read and hash {a:.2f} s, validate {b:.2f} s wall ({b / a:.2f}x)")
    print(f"          {cpu:.2f} s CPU, {memory:.0f} MiB")
    path.unlink()


def header(folder: Path, tensors: int) -> None:
    """A million tensors."""
    path = folder / "many.safetensors"
    write_header(path, tensors)
    wall, cpu, memory = best([*MODELKIT, "validate", str(path), "--no-policy"], 2)
    print(f"header    {tensors:,} tensors: {cpu:.1f} s CPU, {wall:.1f} s wall, {memory:.0f} MiB")


def start(folder: Path) -> None:
    """What it takes to begin."""
    model = str(ROOT / "fixtures" / "stories" / "model")
    help_cpu = best([*MODELKIT, "--help"], 9)[1]
    header_cpu = best([*MODELKIT, "validate", model, "--no-policy"], 9)[1]
    print(f"start-up  --help {help_cpu * 1000:.0f} ms CPU, validate {header_cpu * 1000:.0f} ms CPU "
          f"(+{(header_cpu - help_cpu) * 1000:.0f})")  # fmt: skip


def main() -> None:
    """Run all three."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--megabytes", type=int, default=1024)
    ask.add_argument("--tensors", type=int, default=1_000_000)
    ask.add_argument("--folder", help="where to put the files [default: a temporary folder]")
    options = ask.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        steps: list[Callable[[], None]] = [
            lambda: start(Path(name)),
            lambda: header(Path(name), options.tensors),
            lambda: full(Path(name), options.megabytes),
        ]
        for step in steps:
            step()


if __name__ == "__main__":
    main()
