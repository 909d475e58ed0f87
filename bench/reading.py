"""Reading into a kept buffer against a mapping of the file: what decided how jobs read.

    python bench/reading.py [MEGABYTES]

F16 of normal numbers in the system's cache, piece by piece through the pass that a conversion makes of it. Runs
alternate, the median of seven counts, in processor time.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modelkit.encodings import ENCODINGS, one_pass
from modelkit.plan import PIECE
from modelkit.sources import LocalFile

TIMES = 7
STORED = 2 * PIECE  # bytes of a piece of f16


def by_reading(path: Path, target: str, out: np.ndarray) -> None:
    """One buffer, filled again and again."""
    source, piece = LocalFile(path, path.name), np.empty(STORED, np.uint8)
    for at in range(0, source.size, STORED):
        source.read_into(at, piece.data)
        one_pass(ENCODINGS["f16"], ENCODINGS[target], piece, out)
    source.close()


def by_mapping(path: Path, target: str, out: np.ndarray) -> None:
    """The pages of the file themselves."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        data = np.frombuffer(pages, np.uint8)
        for at in range(0, len(data), STORED):
            one_pass(ENCODINGS["f16"], ENCODINGS[target], data[at : at + STORED], out)
        del data


def seconds(work: Callable[[Path, str, np.ndarray], None], path: Path, target: str) -> float:
    """Processor time of one way through the file."""
    out = np.empty(sum(part.size for part in ENCODINGS[target].parts("x", (PIECE,))), np.uint8)
    began = time.process_time()
    work(path, target, out)
    return time.process_time() - began


def main(megabytes: int) -> int:
    """Print the table."""
    pieces = max(megabytes * 10**6 // STORED, 1)
    with tempfile.TemporaryDirectory() as folder:
        path, random = Path(folder) / "weights", np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(pieces):
                file.write(random.normal(0, 0.02, PIECE).astype("<f2").tobytes())
        for target in ("q8_0", "bf16", "f32"):
            pairs = [(seconds(by_reading, path, target), seconds(by_mapping, path, target)) for _ in range(TIMES)]
            read, mapped = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(two / one for one, two in pairs)
            print(f"f16 -> {target:5} read {read:.3f} s   mapped {mapped:.3f} s   mapped / read {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 512))
