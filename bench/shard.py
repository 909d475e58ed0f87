"""shard and merge against `cp`: the same bytes, in the same run, one after the other.

    python bench/shard.py [GIB]        a GGUF of GIB GiB (2), split by size and merged again, digests left out

`cp` leaves its bytes in memory; modelkit has them on disk before a file gets its name. So there is a line for each:
the copying alone, as --json states it, against `cp`; and the whole command against `cp` with `sync`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from checksum import write_gguf  # beside this file

ROUNDS = 7


def timed(work: Callable[[], object]) -> float:
    """Seconds, with nothing left to be written from before."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def modelkit(*arguments: object) -> dict[str, dict[str, float]]:
    """What the command says of itself."""
    command = [sys.executable, "-m", "modelkit", *map(str, arguments), "--no-digest", "--json", "-q"]
    found: dict[str, dict[str, float]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> int:
    """Print the table; 1 when copying is slower than 0.8 of cp."""
    size = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    folder = Path(tempfile.mkdtemp(prefix="bench-shard-", dir=os.environ.get("BENCH_FOLDER")))
    try:
        return measure(folder, int(size * 2**30))
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, size: int) -> int:
    """Rounds of: both kinds of cp, shard, both kinds of cp, merge."""
    source = folder / "model.gguf"
    write_gguf(source, size)
    copy, parts = folder / "copy.gguf", folder / "parts"
    times: dict[tuple[str, str], list[float]] = {}

    def note(name: str, verb: str, seconds: float) -> None:
        times.setdefault((name, verb), []).append(seconds)

    def cp(*, sync: bool) -> None:
        subprocess.run(["cp", source, copy], check=True)
        if sync:
            subprocess.run(["sync", copy], check=True)

    def pair(verb: str, *arguments: object) -> None:
        """Each peer just before: a virtual machine may have to fetch memory from its host, and that takes long."""
        for sync in (True, False):
            note("cp and sync" if sync else "cp", verb, timed(lambda sync=sync: cp(sync=sync)))  # type: ignore[misc]
            copy.unlink()
        os.sync()
        began = time.perf_counter()
        found = modelkit(verb, *arguments)
        note("whole", verb, time.perf_counter() - began)
        note("copying", verb, found["seconds"]["copying"])

    for _ in range(ROUNDS):
        pair("shard", source, f"{parts}/", "--max-size", size // 4)
        pair("merge", next(parts.glob("*-00001-of-*.gguf")), copy)
        copy.unlink()
        shutil.rmtree(parts)
    print(f"{source.stat().st_size / 2**30:.2f} GiB, {ROUNDS} rounds: medians, and medians of the ratios of pairs")
    worst = 9.0
    for verb in ("shard", "merge"):
        for own, peer in (("copying", "cp and sync"), ("whole", "cp and sync"), ("copying", "cp"), ("whole", "cp")):
            mine, other = times[own, verb], times[peer, verb]
            ratio = median(b / a for a, b in zip(mine, other, strict=True))
            worst = min(worst, ratio) if peer == "cp and sync" else worst
            words = f"{verb}, {own}"
            print(f"  {words:16}{median(mine):6.2f} s   {peer:12}{median(other):6.2f} s   {ratio:5.2f} of its speed")
    return 0 if worst >= 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
