"""Parity against zfec and par2: 10 data volumes, 2 of parity, in the same run, one after the other.

    python bench/bundle_parity.py [MIB]     of each data volume (8); needs zfec (pip) and the par2 command

CPU time, medians of five rounds. modelkit and zfec work on stripes in memory; par2 is a process that reads and writes
files, as it is used: its time includes the digests that it keeps (about 1 % of its work).
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from modelkit.bundles import parity

ROUNDS = 5
DATA, EXTRA = 10, 2
LOST = (3, 7)
ROWS = parity.matrix(EXTRA, DATA)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, children included."""
    began, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() - began + after.ru_utime - children.ru_utime + after.ru_stime - children.ru_stime


def check(same: bool) -> None:  # noqa: FBT001 - it is the only argument
    """A figure of a wrong result would be none."""
    if not same:
        raise SystemExit("what was rebuilt differs from what was lost")


def main() -> int:
    """Print the table."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    rng = np.random.default_rng(0)
    stripes = [[rng.integers(0, 256, parity.STRIPE, dtype=np.uint8) for _ in range(DATA)] for _ in range(mib)]
    raw = [[stripe.tobytes() for stripe in row] for row in stripes]
    whole = [[*row, *parity.encode(row, ROWS)] for row in stripes]
    have = [{n: s for n, s in enumerate(row) if n not in LOST} for row in whole]

    def ours_back() -> None:
        plan = parity.recovery(DATA, ROWS, LOST)
        for stripe, row in zip(have, whole, strict=True):
            back = [np.zeros(parity.STRIPE, np.uint8) for _ in plan.lost]
            for number, column in zip(plan.use, plan.columns, strict=True):
                parity.accumulate(back, column, stripe[number])
            check(all(np.array_equal(one, row[number]) for one, number in zip(back, plan.lost, strict=True)))

    works: dict[str, Callable[[], object]] = {
        "modelkit encode": lambda: [parity.encode(row, ROWS) for row in stripes],
        "modelkit repair": ours_back,
    }
    works |= zfec_works(raw)
    with tempfile.TemporaryDirectory(prefix="bench-parity-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        works |= par2_works(Path(folder), raw)
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                times[name].append(seconds(work))
    size = DATA * mib * parity.STRIPE / 1e6
    print(f"{DATA} + {EXTRA} volumes of {mib} MiB, {ROUNDS} rounds, MB/s of data in CPU time (median)")
    for name, found in times.items():
        kind = name.split()[1]
        against = median(found) / median(times[f"modelkit {kind}"])
        print(f"  {name:16} {size / median(found):8,.0f}   modelkit is {against:.1f} times as fast")
    return 0


def zfec_works(raw: list[list[bytes]]) -> dict[str, Callable[[], object]]:
    """What zfec does with the same stripes; nothing when it is not installed."""
    try:
        zfec = importlib.import_module("zfec")
    except ImportError:
        print("zfec is not installed: pip install zfec")
        return {}
    coder, decoder = zfec.Encoder(DATA, DATA + EXTRA), zfec.Decoder(DATA, DATA + EXTRA)
    new = list(range(DATA, DATA + EXTRA))
    whole = [[*row, *coder.encode(row, new)] for row in raw]
    use = [number for number in range(DATA + EXTRA) if number not in LOST]

    def back() -> None:
        for row in whole:
            check(list(map(bytes, decoder.decode([row[number] for number in use], use))) == row[:DATA])

    return {"zfec encode": lambda: [coder.encode(row, new) for row in raw], "zfec repair": back}


def par2_works(folder: Path, raw: list[list[bytes]]) -> dict[str, Callable[[], object]]:
    """par2 over files, with a fifth of blocks for repair and files of one size."""
    if shutil.which("par2") is None:
        print("par2 is not installed: apt-get install par2")
        return {}
    names = []
    for number in range(DATA):
        path = folder / f"vol-{number}"
        path.write_bytes(b"".join(row[number] for row in raw))
        names.append(path.name)

    def create() -> None:
        for old in folder.glob("*.par2"):
            old.unlink()
        blocks = ["-q", "-q", "-t1", f"-s{parity.STRIPE}", f"-c{EXTRA * len(raw)}", "-n1"]
        subprocess.run(["par2", "create", *blocks, "set.par2", *names], cwd=folder, check=True)

    def repair() -> None:
        for number in LOST:
            (folder / names[number]).unlink()
        subprocess.run(["par2", "repair", "-q", "-q", "-t1", "set.par2"], cwd=folder, check=True)

    return {"par2 encode": create, "par2 repair": repair}


if __name__ == "__main__":
    sys.exit(main())
