"""Whole conversions against `cp`, `dd` and, where they are named, llama-quantize and convert_hf_to_gguf.py.

    python bench/pipeline.py [GIB] [--json]      a bf16 Llama of GIB GiB (0.5), as a GGUF and as a folder

LLAMA_QUANTIZE names the program, CONVERT_HF the script, CONVERT_PYTHON a Python that has what it imports.

Every program writes into the page cache only: modelkit runs with its fsync and its checksums taken out, since its
peers have none. They take turns; the median of the rounds counts, wall and processor time of the whole process, its
start included. `of cp`: how many times the wall time of `cp` of the same source. On a shared machine compare CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from checksum import VOCABULARY, write_gguf  # beside this file

from modelkit.operations.convert import Request, convert

ROUNDS = 3
STORIES = Path(__file__).parent.parent / "fixtures" / "stories" / "model"
TYPES = ("q8_0", "q4_0", "q6_k", "q4_k_m")
THREADS = (1, 2)
LEAN = """
import os, sys, types
from modelkit import execute, jobs, moving
from modelkit.operations.convert import Request, convert
os.fsync = lambda file: None
execute.zlib = jobs.zlib = types.SimpleNamespace(crc32=lambda data, crc=0: 0)
moving._begin_writing = lambda file, span: None
source, destination, to, workers = sys.argv[1:]
convert(Request(source, destination, to, workers=int(workers)))
"""
Times = list[tuple[float, float]]


def run(command: list[str], out: Path, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """(wall, CPU) seconds of a program that writes `out`, which is removed again; the disk is idle before."""
    out.unlink(missing_ok=True)
    os.sync()
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, env={**os.environ, **(environment or {})})
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} failed: {done.stderr.decode(errors='replace')[-500:]}")
    out.unlink()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def rows(source: Path, folder: Path, out: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The commands by what the table calls them; those of one block come after each other."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {
        "cp": (["cp", str(source), str(out)], {}),
        "dd": (["dd", f"if={source}", f"of={out}", "bs=8M"], {}),
    }
    quantizer, script = os.environ.get("LLAMA_QUANTIZE"), os.environ.get("CONVERT_HF")
    lean = [sys.executable, "-c", LEAN]
    for to in TYPES:
        for threads in THREADS:
            for kernels in ("native", "numpy"):
                if kernels == "numpy" and (to.endswith(("_k", "_m")) or threads == 1):
                    continue  # minutes, and half of it in two threads
                name = f"{to}, {threads} threads, modelkit {kernels}"
                command = [*lean, str(source), str(out), to, str(threads)]
                found[name] = (command, {"MODELKIT_KERNELS": kernels})
            if quantizer:
                command = [quantizer, str(source), str(out), to, str(threads)]
                libraries = str(Path(quantizer).parent)
                found[f"{to}, {threads} threads, llama-quantize"] = (command, {"LD_LIBRARY_PATH": libraries})
    found["folder to q8_0, 2 threads, modelkit native"] = ([*lean, str(folder), str(out), "q8_0", "2"], {})
    if script:
        python = os.environ.get("CONVERT_PYTHON", sys.executable)
        command = [python, script, str(folder), "--outfile", str(out), "--outtype", "q8_0"]
        found["folder to q8_0, 2 threads, convert_hf_to_gguf"] = (command, {"OMP_NUM_THREADS": "2"})
    return found


def folder_of(source: Path, folder: Path) -> None:
    """The same weights as a Hugging Face folder, with the tokenizer of the embedded model: the script wants one."""
    convert(Request(str(source), f"{folder}/", "bf16"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": VOCABULARY}))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(STORIES / name, folder)


def measure(place: Path, size: int) -> dict[str, Times]:
    """Every program in turn, round after round."""
    source, folder, out = place / "model.gguf", place / "folder", place / "out.gguf"
    write_gguf(source, size)
    folder_of(source, folder)
    commands = rows(source, folder, out)
    times: dict[str, Times] = {name: [] for name in commands}
    for round_ in range(ROUNDS):
        for name, (command, environment) in commands.items():
            slow = "llama-quantize" in name and name.startswith(("q6_k", "q4_k"))
            if not (slow and round_):  # they take minutes: once
                times[name].append(run(command, out, environment))
    return times


def main() -> int:
    """Measure and print."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    size = int(float(words[0]) * 2**30) if words else 2**29
    place = Path(tempfile.mkdtemp(prefix="bench-pipeline-", dir=os.environ.get("BENCH_FOLDER")))
    try:
        times = measure(place, size)
    finally:
        shutil.rmtree(place)
    found = {
        name: tuple(float(np.round(median(column), 3)) for column in zip(*t, strict=True)) for name, t in times.items()
    }
    if "--json" in sys.argv:
        print(json.dumps({"bytes": size, "wall_cpu_seconds": found}))
        return 0
    print(f"{'':48}{'wall s':>9}{'CPU s':>9}{'GB/s':>8}{'of cp':>8}{'faster than the peer: wall, CPU':>34}")
    for name, (wall, cpu) in found.items():
        head, _, who = name.rpartition(", ")
        peer = next(
            (found[f"{head}, {p}"] for p in ("llama-quantize", "convert_hf_to_gguf") if f"{head}, {p}" in found), None
        )
        ratio = f"{peer[0] / wall:>24.1f}x {peer[1] / cpu:>7.1f}x" if peer and who.startswith("modelkit") else ""
        print(f"{name:48}{wall:>9.2f}{cpu:>9.2f}{size / 1e9 / wall:>8.2f}{wall / found['cp'][0]:>7.1f}x{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
