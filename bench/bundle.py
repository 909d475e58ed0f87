"""Bundles against zstd -3 and ZipNN: ratio and speed, in the same run, one after the other.

    python bench/bundle.py [FILE.safetensors ...]     otherwise synthetic normal weights of 128 MiB: bf16, f16, f32

Speed is MB of the original a second of CPU time (user and system, all threads), the median of three rounds: files are
read from the page cache and written to a temporary folder. `create` includes every digest; `unpack` the verification
of stored and restored bytes. ZipNN (where it is installed) works in memory and makes no digest.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zstandard

from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_unpack import unpack
from modelkit.operations.bundle_verify import verify

ROUNDS = 3
MODES: dict[str, dict[str, Any]] = {
    "create": {}, "create --portable": {"coding": "deflate"}, "create --max": {"best": True},
}  # fmt: skip
BLOCK = 1 << 20


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def synthetic(folder: Path, dtype: str, mib: int = 128) -> Path:
    """Normal weights of standard deviation 0.02."""
    count = (mib << 20) // (4 if dtype == "F32" else 2)
    values = np.random.default_rng(0).standard_normal(count, dtype=np.float32) * np.float32(0.02)
    stored: Any = values
    if dtype == "BF16":
        bits = values.view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    elif dtype == "F16":
        stored = values.astype(np.float16)
    header = json.dumps({"w": {"dtype": dtype, "shape": [count], "data_offsets": [0, stored.nbytes]}}).encode()
    path = folder / f"synthetic-{dtype.lower()}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + stored.tobytes())
    return path


def zstd(source: Path, target: Path) -> None:
    """What most people would do."""
    with source.open("rb") as read, target.open("wb") as write:
        zstandard.ZstdCompressor(level=3).copy_stream(read, write)


def zipnn(source: Path) -> tuple[float, float] | None:
    """(ratio, CPU seconds) of ZipNN, in memory; None where it is not installed."""
    try:
        import zipnn as package
    except ImportError:
        return None
    data = source.read_bytes()
    dtype = "bfloat16" if "bf16" in source.name else "float32" if "f32" in source.name else "float16"
    coder = package.ZipNN(bytearray_dtype=dtype, input_format="byte")
    coded: list[Any] = []
    seconds = spent(lambda: coded.append(coder.compress(bytearray(data))))
    return len(coded[0]) / len(data), seconds


def measure(source: Path, folder: Path) -> None:
    """One table."""
    size = source.stat().st_size
    print(f"{source.name}, {size:,} bytes")
    times: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, options in MODES.items():
            bundle = folder / "bundle"
            shutil.rmtree(bundle, ignore_errors=True)
            made: list[Any] = []
            request = Request(str(source), str(bundle), **options)
            times.setdefault(name, []).append(spent(lambda r=request, m=made: m.append(create(r))))  # type: ignore[misc]
            ratios[name] = made[0].stored / size
            if name == "create":
                times.setdefault("verify", []).append(spent(lambda b=bundle: verify(str(b))))  # type: ignore[misc]
                out = folder / "out"
                shutil.rmtree(out, ignore_errors=True)
                times.setdefault("unpack", []).append(
                    spent(lambda b=bundle, o=out: unpack(str(b), str(o)))  # type: ignore[misc]
                )
                if (out / source.name).read_bytes() != source.read_bytes():
                    raise SystemExit("what was unpacked differs from what was packed")
        times.setdefault("zstd -3", []).append(spent(lambda: zstd(source, folder / "zstd")))
        ratios["zstd -3"] = os.path.getsize(folder / "zstd") / size
        other = zipnn(source)
        if other is not None:
            ratios["ZipNN, in memory"] = other[0]
            times.setdefault("ZipNN, in memory", []).append(other[1])
    for name, seconds in times.items():
        ratio = f"{ratios[name]:.4f}" if name in ratios else ""
        print(f"    {name:<20}{ratio:>8}{size / 1e6 / median(seconds):>8.0f} MB/s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"    peak memory {peak} MiB, this script's own included")


def main() -> int:
    """Print a table for each file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if sys.argv[1:]:
            for name in sys.argv[1:]:
                measure(Path(name), folder)
        else:
            for dtype in ("BF16", "F16", "F32"):
                measure(synthetic(folder, dtype), folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
