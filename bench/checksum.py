"""checksum against sha256sum: one file of one model, in the same run, one after the other.

    python bench/checksum.py [GIB]     a GGUF of GIB GiB (2) of bf16 weights of a Llama

Plain sha256 of one file is one chain of blocks: no program can use two cores for it, and none is faster than the
processor's own instructions, which openssl uses and Debian's sha256sum does not. Tensors are hashed side by side.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np

from modelkit.encodings import ENCODINGS
from modelkit.formats.gguf import layout
from modelkit.tensors import Model, Tensor

ROUNDS = 7
HIDDEN, FEED_FORWARD, HEADS, VOCABULARY = 2048, 5632, 16, 32_000


def write_gguf(path: Path, size: int) -> None:
    """A bf16 Llama of about `size` bytes, its values random and small."""
    shapes = {
        "attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,), "ffn_gate": (FEED_FORWARD, HIDDEN),
        "ffn_up": (FEED_FORWARD, HIDDEN), "ffn_down": (HIDDEN, FEED_FORWARD),
    }  # fmt: skip
    block = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    layers = max(1, round((size - 2 * VOCABULARY * HIDDEN) / block))
    names = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(layers):
        names |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    tensors = []
    for name, shape in names.items():
        encoding = ENCODINGS["bf16" if len(shape) > 1 else "f32"]
        tensors.append(Tensor(name, shape, encoding, encoding.parts(name, shape)))
    keys = {
        "general.architecture": "llama", "llama.block_count": layers, "llama.context_length": 2048,
        "llama.embedding_length": HIDDEN, "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    made = layout(Model(tuple(tensors), {}, keys), path.name)
    noise = (np.random.default_rng(0).standard_normal(2**22, dtype=np.float32) * 0.02).view(np.uint32)
    piece = memoryview((noise >> 16).astype("<u2").tobytes())
    with path.open("wb") as file:
        file.truncate(made.files[0].size)
        for start, data in made.files[0].literals:
            file.seek(start)
            file.write(data)
        for tensor in tensors:
            span = made.model.spans[tensor.name]
            file.seek(span.start)
            for at in range(0, span.size, len(piece)):
                file.write(piece[: min(len(piece), span.size - at)])


def run(command: list[object]) -> tuple[float, float, float]:
    """(seconds, CPU seconds, peak MB) of a process."""
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    peak = 0.0
    while True:
        with suppress(OSError, StopIteration):  # it may end between two looks; rusage would count this process too
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max(peak, int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.005)
    if status:
        raise SystemExit(f"{command}: status {status}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak


def main() -> int:
    """Print the table."""
    size = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    folder = Path(tempfile.mkdtemp(prefix="bench-checksum-", dir=os.environ.get("BENCH_FOLDER")))
    try:
        path = folder / "model.gguf"
        write_gguf(path, int(size * 2**30))
        measure(path)
    finally:
        shutil.rmtree(folder)
    return 0


def measure(path: Path) -> None:
    """Rounds of every way, each beside sha256sum."""
    own = [sys.executable, "-m", "modelkit", "checksum", path, "-q"]
    ways: dict[str, list[object]] = {
        "sha256sum": ["sha256sum", path],
        "modelkit checksum": own,
        "modelkit checksum --tensors": [*own, "--tensors"],
        "modelkit checksum --model": [*own, "--model"],
    }
    if shutil.which("openssl"):
        ways["openssl dgst -sha256"] = ["openssl", "dgst", "-sha256", path]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, command in ways.items():
            found[name].append(run(command))
    mebibytes = path.stat().st_size / 2**20
    print(f"{mebibytes:,.0f} MiB, {ROUNDS} rounds, medians; ratios are medians of pairs, above 1 is faster")
    print(f"  {'':30}{'seconds':>9}{'CPU s':>8}{'MiB/s':>8}{'peak MB':>9}   time and CPU against sha256sum")
    for name, times in found.items():
        seconds, cpu, peak = (median(column) for column in zip(*times, strict=True))
        ratios = [
            median(peer[place] / one[place] for one, peer in zip(times, found["sha256sum"], strict=True))
            for place in (0, 1)
        ]
        row = f"  {name:30}{seconds:9.2f}{cpu:8.2f}{mebibytes / seconds:8.0f}{peak:9.0f}"
        print(f"{row}   {ratios[0]:5.2f} {ratios[1]:5.2f}")
    print(f"  one core, from its cache: hashlib {rate():,.0f} MB/s")


def rate() -> float:
    """MB of sha256 in a second of CPU time: what the processor allows."""
    data, state = bytes(2**16), hashlib.sha256()
    began = time.thread_time()
    for _ in range(2**13):
        state.update(data)
    return 2**29 / (time.thread_time() - began) / 1e6


if __name__ == "__main__":
    sys.exit(main())
