"""Cost of `verify`, against its own plan: a model and its q8_0 form, 128 tokens, one process each.

    python bench/verify.py [15M] [135M] [1.1B]

Prints processor seconds and peak memory of the whole process, and what `--plan` said before. The plan is
good when measured / planned is the same for all sizes: the last line holds the two largest against each
other. No other tool streams two checkpoints in lockstep, so there is no peer's column; `run.py` has torch.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import SHAPES, make

TOKENS = 128


def modelkit(*words: object) -> dict[str, object]:
    """Run a command, one thread; its JSON."""
    command = [sys.executable, "-m", "modelkit", *map(str, words), "--json"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(size: str, place: Path) -> float:
    """One size; measured / planned."""
    folder = place / size
    folder.mkdir()
    make(folder, SHAPES[size])
    converted = place / f"{size}.gguf"
    modelkit("convert", folder, converted, "--to", "q8_0")
    vocabulary = int(str(SHAPES[size]["vocab_size"]))
    np.save(place / "ids.npy", np.random.default_rng(1).integers(0, vocabulary, TOKENS))
    words = ("verify", folder, converted, "--tokens-file", place / "ids.npy")
    plan = modelkit(*words, "--plan")
    began = processor_seconds()
    found = modelkit(*words)
    plain = processor_seconds() - began
    modelkit(*words, "--local")
    local = processor_seconds() - began - plain
    ratio = plain / float(str(plan["cpu_seconds_estimate"]))
    memory, planned = (int(str(value)) / 2**20 for value in (found["peak_memory_bytes"], plan["memory_bytes"]))
    cost = f"{plain:6.1f} CPU s (planned {plan['cpu_seconds_estimate']}, ratio {ratio:.2f}), with --local {local:6.1f}"
    print(f"{size:>5}  {cost}   {memory:5.0f} MiB peak (planned {planned:.0f})", flush=True)
    for file in (*folder.iterdir(), converted):
        file.unlink()
    return ratio


def main(sizes: list[str]) -> None:
    """Measure each size, then compare the two largest."""
    with tempfile.TemporaryDirectory() as place:
        ratios = [measure(size, Path(place)) for size in sizes]
    if len(ratios) > 1:
        share = ratios[-1] / ratios[-2]
        print(f"measured / planned of {sizes[-1]} against {sizes[-2]}: {share:.2f} (1 = the plan is linear)")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SHAPES))
