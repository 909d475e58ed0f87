"""Flat memory, measured: the process's own high-water mark, Python and numpy included."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LIMIT = 512 * 2**20
SCRIPT = """
import sys
from modelkit.operations.convert import Request, convert
convert(Request(sys.argv[1], sys.argv[2], sys.argv[3] or None))
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) * 1024)
"""


def peak(source: Path, target: str, to: str) -> int:
    """Bytes of memory that a conversion needed at most, in a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark is read from /proc, which is not here")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), target, to], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def write_folder(folder: Path, tensors: dict[str, tuple[int, int]], shards: int) -> None:
    """bf16 tensors of non-zero data on disk, in shards, written piece by piece."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    piece = (rng.standard_normal(2**21, dtype=np.float32) * 0.05).view(np.uint32)
    piece = ((piece + 0x8000) >> 16).astype("<u2").tobytes()  # 4 MiB of bf16
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file, header, at = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors", {}, 0
        mine = names[shard::shards]
        for name in mine:
            size = tensors[name][0] * tensors[name][1] * 2
            header[name] = {"dtype": "BF16", "shape": tensors[name], "data_offsets": [at, at + size]}
            at += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _ in range(at // len(piece)):
                out.write(piece)
            out.write(piece[: at % len(piece)])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "synthetic"}')


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A single 512 MiB tensor, quantised: no more memory than a small one would need."""
    write_folder(tmp_path / "in", {"w": (65536, 4096)}, 1)
    assert peak(tmp_path / "in", str(tmp_path / "out.gguf"), "q8_0") < LIMIT
    shutil.rmtree(tmp_path / "in")


@pytest.mark.slow
def test_eight_gigabytes_with_one_tensor_of_two(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 16 * 2**30:
        pytest.skip("needs 16 GiB of free disk")
    tensors = {"huge": (262144, 4096)} | {f"layer.{n}.weight": (16384, 4096) for n in range(48)}
    write_folder(tmp_path / "in", tensors, 4)
    used = peak(tmp_path / "in", str(tmp_path / "out.gguf"), "q8_0")
    print(f"8 GiB folder, one 2 GiB tensor, to q8_0: peak {used / 2**20:.0f} MiB")
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "out.gguf").unlink()
    assert used < LIMIT
