"""What a seal can see, and how quiet it is: damage of known size, and the same model on other kernels and threads.

    python bench/seal.py [MODEL [TIMES]]     a safetensors folder in bf16 (the embedded model), 100

Each kind of damage is put at random places of a copy, matrices only, many times over; shown is how often the
log probabilities move by more than rounding explains. The model digest, which sees every bit, is left aside here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from modelkit.operations import seal

STORIES = Path(__file__).resolve().parent.parent / "fixtures" / "stories" / "model"
TIMES = int(sys.argv[2]) if len(sys.argv) > 2 else 100
PROCESSORS = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "Zen")  # kernels of OpenBLAS
Damage = Callable[[np.ndarray, np.random.Generator], None]


def sign(matrix: np.ndarray, random: np.random.Generator) -> None:
    """One weight changes its sign."""
    matrix[random.integers(matrix.shape[0]), random.integers(matrix.shape[1])] ^= 0x8000


def any_bit(matrix: np.ndarray, random: np.random.Generator) -> None:
    """One bit of one weight, whichever."""
    matrix[random.integers(matrix.shape[0]), random.integers(matrix.shape[1])] ^= 1 << int(random.integers(16))


def last_bits(matrix: np.ndarray, random: np.random.Generator) -> None:
    """Random last bits in all of one matrix."""
    matrix ^= random.integers(0, 2, matrix.shape, dtype=np.uint16)


def block(matrix: np.ndarray, random: np.random.Generator) -> None:
    """32 neighbouring weights are zero."""
    row, column = random.integers(matrix.shape[0]), random.integers(matrix.shape[1] // 32)
    matrix[row, 32 * column : 32 * column + 32] = 0


def row(matrix: np.ndarray, random: np.random.Generator) -> None:
    """A row is zero."""
    matrix[random.integers(matrix.shape[0])] = 0


def sector(matrix: np.ndarray, random: np.random.Generator) -> None:
    """512 bytes are zero: a sector of a disk."""
    flat = matrix.reshape(-1)
    start = int(random.integers(max(flat.size - 256, 1)))
    flat[start : start + 256] = 0


def matrices(data: bytearray) -> Iterator[tuple[str, np.ndarray]]:
    """Every bf16 matrix of a safetensors file as a view of its bytes, uint16."""
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if entry.get("dtype") == "BF16" and len(entry["shape"]) == 2:
            begin, end = entry["data_offsets"]
            yield (
                name,
                np.frombuffer(data, np.uint16)[(start + begin) // 2 : (start + end) // 2].reshape(entry["shape"]),
            )


def main() -> int:
    """Print both tables."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else STORIES
    made = seal.make(model)
    limit = seal.parse(made).limit
    print(f"{model.name}: a seal of {len(made):,} bytes; rounding explains {limit:.1e} nats (root mean square)")
    with tempfile.TemporaryDirectory(prefix="bench-seal-", dir=os.environ.get("BENCH_FOLDER")) as place:
        folder = Path(place) / "model"
        shutil.copytree(model, folder)
        for damage in (sign, any_bit, block, sector, row, last_bits):
            found = [apart(made, model, folder, damage, number) for number in range(TIMES)]
            seen = sum(value > limit for value in found)
            print(f"  {(damage.__doc__ or '').strip():62} {seen:3} of {TIMES} seen, {median(found):.1e} nats (median)")
        (Path(place) / "seal").write_bytes(made)
        print("the same model elsewhere, as a multiple of what is allowed:")
        for kernels in ("numpy", "native"):
            for processor in PROCESSORS:
                shares = [elsewhere(Path(place) / "seal", model, kernels, processor, threads) for threads in (1, 2, 4)]
                print(f"  {kernels:7} {processor:12} 1, 2, 4 threads: {', '.join(f'{share:.2f}' for share in shares)}")
    return 0


def apart(made: bytes, model: Path, folder: Path, damage: Damage, number: int) -> float:
    """How far log probabilities move, root mean square in nats, when a random matrix is damaged."""
    random = np.random.default_rng(number)
    data = bytearray((model / "model.safetensors").read_bytes())
    found = list(matrices(data))
    _, matrix = found[random.integers(len(found))]
    damage(matrix, random)
    (folder / "model.safetensors").write_bytes(data)
    try:
        return seal.check(made, folder).deviation
    except seal.BadValue:
        return float("inf")  # it computes no numbers any more


def elsewhere(made: Path, model: Path, kernels: str, processor: str, threads: int) -> float:
    """Deviation over limit in a process with these kernels and threads; NaN where the processor has no such ones."""
    code = (
        "import sys; from modelkit.operations.seal import check; from pathlib import Path; c = check(Path(sys.argv[1])"
    )
    code += ".read_bytes(), sys.argv[2]); print(c.deviation / c.seal.limit)"
    settings = {"MODELKIT_KERNELS": kernels, "OPENBLAS_CORETYPE": processor, "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", code, str(made), str(model)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else float("nan")


if __name__ == "__main__":
    sys.exit(main())
