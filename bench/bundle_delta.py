"""What a bundle against a base carries: a fine-tuned model as integer differences, as XOR, and alone.

    python bench/bundle_delta.py [BASE TUNED]     two model.safetensors with the same tensors in bf16; the embedded pair

Stored bytes over original ones, every plane of a MiB coded as the bundle does it (zstd with its match search off, raw
when that gains under 1 %). The tensors alone; the headers and tokenizers of a bundle come on top.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from modelkit.bundles.delta import difference, restored

STORIES = Path(__file__).resolve().parent.parent / "fixtures" / "stories"
PIECE = 1 << 20
CODER = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(
        window_log=17, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0,
        strategy=zstandard.STRATEGY_FAST, write_content_size=True,
    )
)  # fmt: skip


def stored(data: bytes) -> int:
    """Bytes of the planes of 16-bit words; a plane of one value takes none."""
    total = 0
    for at in range(0, len(data), PIECE):
        piece = np.frombuffer(data[at : at + PIECE], np.uint8)
        for plane in (np.ascontiguousarray(piece[byte::2]) for byte in range(2)):
            coded = len(CODER.compress(plane))
            total += 0 if (plane == plane[0]).all() else coded if coded < 0.99 * plane.size else plane.size
    return total


def rotated(data: bytes) -> bytes:
    """As a bundle without a base has it: exponent and first bits of the mantissa in the top byte."""
    words = np.frombuffer(data, "<u2")
    return (words << 3 | words >> 13).tobytes()


def tensors(path: Path) -> dict[str, bytes]:
    """The stored bytes of every bf16 tensor."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    places = {name: entry["data_offsets"] for name, entry in header.items() if entry.get("dtype") == "BF16"}
    return {name: data[start + begin : start + end] for name, (begin, end) in places.items()}


def main() -> int:
    """Print the figures."""
    paths = list(map(Path, sys.argv[1:3])) or [STORIES / side / "model.safetensors" for side in ("model", "tuned")]
    base, tuned = map(tensors, paths)
    size = sum(map(len, tuned.values()))
    same = sum(len(tuned[name]) for name in tuned if tuned[name] == base[name])
    words = [np.frombuffer(b"".join(side[name] for name in tuned), "<u2") for side in (base, tuned)]
    print(f"{size:,} bytes in {len(tuned)} tensors; {same / size:.1%} in unchanged ones")
    print(f"words that differ: {np.mean(words[0] != words[1]):.1%}")
    ways: dict[str, Callable[[bytes, bytes], bytes]] = {
        "alone": lambda new, _: rotated(new),
        "XOR": lambda new, old: (np.frombuffer(new, "u1") ^ np.frombuffer(old, "u1")).tobytes(),
        "difference": lambda new, old: difference(new, old, 16).tobytes(),
    }
    for name, way in ways.items():
        print(f"  {name:12} {sum(stored(way(tuned[key], base[key])) for key in tuned) / size:.4f}")
    new, old = (words[side].tobytes() for side in (1, 0))
    began = time.process_time()
    steps = difference(new, old, 16)
    middle = time.process_time()
    back = restored(steps, old, 16)
    end = time.process_time()
    if back.tobytes() != new:
        raise SystemExit("the difference does not lead back")
    print(f"  {size / 1e6 / (middle - began):,.0f} MB/s there, {size / 1e6 / (end - middle):,.0f} MB/s back, CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
