"""Fuzz one parser, guided by coverage where atheris installs, by chance alone elsewhere.

    python tests/fuzz/run.py TARGET [--seconds 60] [--runs 0] [--seed 0] [--corpus DIR]

pip install atheris    for guidance; it has wheels for CPython on Linux. A crash leaves its input in crash-*.
--seed N (and PYTHONHASHSEED) tries nearly the same inputs again; without it every run tries others.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
SECONDS_EACH = 10


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut, repeated or made extreme."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(found) + 1)
        how = chance.randrange(5)
        if how == 0 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif how == 1:
            del found[at : at + chance.randint(1, 16)]
        elif how == 2:
            found[at:at] = found[at : at + chance.randint(1, 32)]
        elif how == 3:
            found[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x00" * 7 + b"\x80"))
        else:
            found[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(found)


def by_chance(target: Callable[[bytes], None], seeds: list[bytes], seconds: float, most: int, seed: int = 0) -> int:
    """Mutations of the seeds, the same ones in every run; how many were tried."""
    chance, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while count < most and time.monotonic() < end:
        target(mutated(chance.choice(seeds), chance))
        count += 1
    return count


def inputs(name: str) -> Iterator[bytes]:
    """Seeds from a museum that is built and thrown away."""
    from rules_museum import museum_script
    from seeds import seeds

    with tempfile.TemporaryDirectory() as folder:
        museum_script.build(Path(folder) / "museum")
        yield from seeds(name, Path(folder) / "museum")


def guided(name: str, seconds: int, runs: int, seed: int, corpus: str | None) -> None:
    """atheris: it looks which branches an input reaches and keeps those that reach new ones. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["modelkit"]):
        from targets import TARGETS
    folder = Path(corpus or tempfile.mkdtemp())
    for number, data in enumerate(inputs(name)):
        (folder / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS_EACH}", "-rss_limit_mb=1024", "-max_len=100000"]
    options += [f"-seed={seed}", "-reload=0", *([f"-runs={runs}"] if runs else [])]
    atheris.Setup([sys.argv[0], *options, str(folder)], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("target")
    ask.add_argument("--seconds", type=int, default=60)
    ask.add_argument("--runs", type=int, default=0)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--corpus")
    options = ask.parse_args()
    if find_spec("atheris") is not None:
        guided(options.target, options.seconds, options.runs, options.seed, options.corpus)
    from targets import TARGETS

    print("atheris is not installed: inputs are found by chance alone")
    known, most = list(inputs(options.target)), options.runs or 10**9
    count = by_chance(TARGETS[options.target], known, options.seconds, most, options.seed or random.randrange(2**32))
    print(f"{count:,} inputs")


if __name__ == "__main__":
    main()
