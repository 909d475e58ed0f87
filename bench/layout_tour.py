"""A model's way through all ecosystems, as it is typed: what each step does, its work, its memory.

    python bench/layout_tour.py MODEL GROUP        MODEL a folder or file of floats

Prints two tables, of symmetric weights and of weights with a zero for each group, and below each how all pairs of stops
compare under `verify --gate lossless` on a short text. Exits 1 where a step of the symmetric tour is not EXACT or two
of its stops differ. Seconds are of the processor, memory is the high-water mark of the process, Python included; since
a child's mark begins with what its parent has, nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

SYMMETRIC = (
    ("compressed-tensors/", "compressed-tensors:scale=f16", "--symmetric"),
    ("gptq/", "gptq"), ("awq/", "awq"), ("mlx/", "mlx"),
    ("q4_0.gguf", "pure:q4_0"), ("again/", "compressed-tensors"),
)  # fmt: skip
ASYMMETRIC = (
    ("compressed-tensors/", "compressed-tensors", "--asymmetric"), ("gptq/", "gptq"), ("awq/", "awq"), ("mlx/", "mlx"),
    ("q4_1.gguf", "pure:q4_1"), ("again/", "compressed-tensors"),
)  # fmt: skip
"""Where to, what is typed after --to, and how the first step quantises."""

TEXT = "The quick brown fox jumps over the lazy dog, and the dog looks up and says that it had been asleep until now.\n"


def modelkit(*words: object) -> tuple[dict, float, int, int]:  # type: ignore[type-arg]
    """A command's JSON, its seconds of the processor, its bytes of memory at most, its exit code."""
    command = [sys.executable, "-m", "modelkit", *map(str, words), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return json.loads(out), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, process.returncode


def tour(model: Path, group: str, stops: Sequence[tuple[str, ...]], place: Path) -> tuple[list[list[str]], bool]:
    """Rows of a table, and whether every step after the first was EXACT."""
    rows, exact, before = [], True, str(model)
    for name, to, *how in stops:
        verb = ["quantize", before, f"{place}/{name}", "--to", to, "--group-size", group, *how]
        found, seconds, memory, code = modelkit(*(verb if how else ["convert", before, f"{place}/{name}", "--to", to]))
        if code:
            sys.exit(f"{name}: {found['error']}")
        exact = exact and (bool(how) or {one["verdict"] for one in found["verdicts"]} == {"EXACT"})
        told = ", ".join(map(verdict, found["verdicts"]))
        rows.append([f"`{to}`", told, f"{seconds:.1f}", f"{memory / 2**20:.0f}"])
        before = f"{place}/{name}"
    return rows, exact


def verdict(one: dict) -> str:  # type: ignore[type-arg]
    """As the command prints it."""
    error = f" (max {one['max_relative_error']:.1e})" if one["max_relative_error"] else ""
    return f"{one['verdict']} {one['tensors']}{error}"


def compared(stops: Sequence[tuple[str, ...]], place: Path) -> tuple[str, bool]:
    """How the logits of all pairs compare; whether all have the same bits."""
    (place / "text").write_text(TEXT)
    same, apart, memory = 0, [], 0
    pairs = list(combinations((name for name, *_ in stops), 2))
    for one, other in pairs:
        words = ("verify", place / one, place / other, "--text", place / "text", "--gate", "lossless")
        found, _, used, _ = modelkit(*words)
        memory = max(memory, used)
        same += found["identical"]
        apart.append(found["kl"]["mean"])
    kl = "" if same == len(pairs) else f", of the others the largest mean KL is {max(apart):.1e}"
    told = f"`verify --gate lossless`: the same bits for {same} of {len(pairs)} pairs of stops{kl}"
    return f"{told}; {memory / 2**20:.0f} MiB.", same == len(pairs)


def main(words: list[str]) -> int:
    """Both tours; 1 when the symmetric one is not exact."""
    model, group = Path(words[0]), words[1]
    good = True
    for title, stops in (("Symmetric", SYMMETRIC), ("With zeros", ASYMMETRIC)):
        with tempfile.TemporaryDirectory() as name:
            rows, exact = tour(model, group, stops, Path(name))
            told, same = compared(stops, Path(name))
        print(f"{title}, groups of {group}:\n\n| `--to` | verdicts | seconds | MiB |\n| --- | --- | --- | --- |")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), f"\n{told}\n", sep="\n", flush=True)
        good = good and (stops is ASYMMETRIC or (exact and same))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
