"""Int4 layouts: how fast weights move between them, into them and out of them, beside their owners' own packers.

python bench/layouts.py [PYTHON] [--json]

PYTHON, or LAYOUT_PEERS: a Python that has the peers (torch with compressed-tensors, autoawq and gptqmodel; mlx[cpu];
gguf), this one where none is named; what it lacks is printed.

One weight of 1792 x 4096, 4 bits, symmetric, groups of 128 (q4_0 and what it becomes: 32). Processor time of whole
calls in memory; modelkit's include its checks and, when repacking, its reads and writes. modelkit in C, modelkit in
numpy and the peer take turns, the median of the rounds counts. What both make is compared on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from modelkit import kernels
from modelkit.encodings import find
from modelkit.moving import keep_memory
from modelkit.plan import Job
from modelkit.repacking import Door, repack
from modelkit.runs import layout_of
from modelkit.tensors import Span, Tensor

ROUNDS = 9
SHAPE = (1792, 4096)
NAME = "x.weight"
WORDS = {
    "gptq": "gptq:bits=4,group=128,method=rtn",
    "awq": "awq:bits=4,group=128,method=rtn",
    "compressed_tensors": "compressed_tensors:bits=4,group=128,method=rtn",
    "mlx": "mlx:bits=4,group=128,symmetric=yes,method=rtn",
    "q4_0": "q4_0",
}
INTO = {"mlx": "mlx:bits=4,group=128,method=rtn"}  # its own rule has biases
KINDS = {"I32": np.int32, "U32": np.uint32, "F16": np.float16, "I64": np.int64, "U8": np.uint8}
REPACKS = [(a, b) for a in WORDS for b in WORDS if a != b and "q4_0" not in (a, b)]
REPACKS += [("q4_0", "gptq"), ("gptq", "q4_0")]
TO_BF16 = [(name, "bf16") for name in WORDS]


def parts_of(name: str, values: np.ndarray) -> list[np.ndarray]:
    """The stored bytes of a weight: flat uint8, one array for each part."""
    return [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in find(WORDS[name]).pack(values)]


def job_of(source: list[np.ndarray], one: str, other: str) -> Callable[[], Any]:
    """A whole job from memory to memory."""
    sides = [find(WORDS.get(side, side)) for side in (one, other)]
    if (one, other) in REPACKS and "q4_0" in (one, other):
        sides = [side.configured({"group": "32"}) if hasattr(side, "group") else side for side in sides]
    tensors = [Tensor(NAME, SHAPE, side, side.parts(NAME, SHAPE)) for side in sides]
    known = sides[1].constants(NAME, SHAPE) if layout_of(sides[1]) else {}
    out = [np.zeros(part.size, np.uint8) for part in tensors[1].parts]
    reads = tuple(Span(str(n), 0, len(part)) for n, part in enumerate(source))
    writes = tuple(Span(str(n), 0, 0 if part.name in known else part.size) for n, part in enumerate(tensors[1].parts))
    job = Job(0, 0, SHAPE, *sides, (), reads, writes, None, tuple(part.whole for part in tensors[0].parts))

    def read(span: Span) -> np.ndarray:
        return source[int(span.file)][span.start : span.start + span.size].copy()

    def write(span: Span, data: np.ndarray) -> None:
        out[int(span.file)][span.start : span.start + span.size] = data

    return lambda: repack(job, Door(read, write, lambda *_: np.empty(0, np.float32)))


@dataclass
class Peers:
    """The process that runs them."""

    python: str
    folder: Path
    tasks: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        command = [self.python, str(Path(__file__).parent / "layouts_peers.py"), str(self.folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while not (line := self._line()).startswith('{"tasks"'):  # some packages print when they are loaded
            pass
        offered = json.loads(line)
        self.tasks, self.missing = offered["tasks"], offered["missing"]

    def _line(self) -> str:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            sys.exit(f"{self.python} ended: run bench/layouts_peers.py with it to see why")
        return line

    def ask(self, order: str, task: str) -> float:
        self.process.stdin.write(f"{order} {task}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return float(self._line())

    def result(self, task: str) -> np.ndarray:
        self.ask("save", task)
        return np.load(self.folder / f"{task.replace(' ', '_').replace('>', '')}.npy")


def seconds(work: Callable[[], Any], extension: Any) -> float:
    """Processor time with the extension, or without."""
    kernels.native = lambda: extension  # type: ignore[assignment]
    start = time.process_time()
    work()
    return time.process_time() - start


def works(values: np.ndarray, stored: dict[str, list[np.ndarray]]) -> dict[str, tuple[Callable[[], Any], int]]:
    """What is measured, by the names that peers have for it, and the packed bytes of the source, 0 for floats."""
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for one, other in REPACKS + TO_BF16:
        source = stored[one]
        if other == "q4_0":
            source = [np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                      for part in find("gptq:bits=4,group=32,method=rtn").pack(values)]  # fmt: skip
        found[f"{one} -> {other}"] = job_of(source, one, other), sum(map(len, source))
    for name, words in WORDS.items():
        encoding, into, parts = find(words), find(INTO.get(name, words)), stored[name]
        found[f"dequantise {name}"] = (lambda e=encoding, p=parts: e.unpack(p, SHAPE)), sum(map(len, parts))
        found[f"quantise {name}"] = (lambda e=into: e.pack(values)), 0
    return found


def save(folder: Path, values: np.ndarray, stored: dict[str, list[np.ndarray]]) -> None:
    """The arrays that peers work on, with their dtypes."""
    np.save(folder / "values.npy", values)
    for name, arrays in stored.items():
        for part, data in zip(find(WORDS[name]).parts(NAME, SHAPE), arrays, strict=True):
            shape = (SHAPE[0], -1) if name == "q4_0" else part.shape
            array = data.view(KINDS.get(part.dtype, np.uint8)).reshape(shape)
            np.save(folder / f"{name}.{part.name.removeprefix('x.')}.npy", array)


def differing(peers: Peers, values: np.ndarray, stored: dict[str, list[np.ndarray]]) -> list[str]:
    """Where a peer's values or words are not ours."""
    found = []
    for task in peers.tasks:
        kind, _, name = task.partition(" ")
        if kind == "dequantise":
            mine: np.ndarray = find(WORDS[name]).unpack(stored[name], SHAPE)
        elif kind == "quantise" or task.endswith("bf16"):
            continue  # each has its own rule for scales; the values are compared before they are rounded
        else:
            mine = stored[task.rpartition(" ")[2]][0].view(np.int32)
        theirs = peers.result(task)
        if not np.array_equal(theirs.reshape(-1), mine.reshape(-1)):
            found.append(f"{task}: {peers.tasks[task]} makes something else")
    return found


def measure(peers: Peers, values: np.ndarray, stored: dict[str, list[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Medians in seconds by work and who did it."""
    extension, found = kernels.native(), {}
    for task, (work, size) in works(values, stored).items():
        spent: dict[str, list[float]] = {"C": [], "numpy": [], "peer": []}
        for _ in range(ROUNDS):
            if extension is not None:
                spent["C"].append(seconds(work, extension))
            spent["numpy"].append(seconds(work, None))
            if task in peers.tasks:
                spent["peer"].append(peers.ask("time", task))
        medians = {who: median(times) for who, times in spent.items() if times}
        found[task] = {"seconds": medians, "bytes": size, "peer": peers.tasks.get(task, "")}
    kernels.native = lambda: extension  # type: ignore[assignment]
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """A line for each work: M weights/s, GB/s of packed data, ratios."""
    print(f"{'':32}{'C':>8}{'numpy':>8}{'peer':>8}  M weights/s{'C':>8} GB/s packed{'C/peer':>9}{'C/numpy':>9}  peer")
    for task, one in found.items():
        spent, count = one["seconds"], SHAPE[0] * SHAPE[1] / 1e6
        rates = "".join(f"{count / spent[who]:8.0f}" if who in spent else f"{'-':>8}" for who in ("C", "numpy", "peer"))
        own = spent.get("C", spent["numpy"])
        packed = f"{one['bytes'] / own / 1e9:8.2f}" if one["bytes"] else f"{'-':>8}"
        ratio = f"{spent['peer'] / own:8.1f}x" if "peer" in spent else f"{'-':>9}"
        print(
            f"{task:32}{rates}{'':13}{packed}{'':12}{ratio}{spent['numpy'] / own:8.1f}x  {one['peer'] or 'no function'}"
        )


def main(arguments: list[str]) -> int:
    """Measure, compare, print."""
    keep_memory()  # as conversions do
    named = [word for word in arguments if not word.startswith("-")]
    values = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32) * np.float32(0.02)
    stored = {name: parts_of(name, values) for name in WORDS}
    with tempfile.TemporaryDirectory() as place:
        save(Path(place), values, stored)
        peers = Peers(named[0] if named else os.environ.get("LAYOUT_PEERS", sys.executable), Path(place))
        peers.start()
        found = measure(peers, values, stored)
        other = differing(peers, values, stored)
        peers.process.communicate()
    if "--json" in arguments:
        print(json.dumps({"results": found, "missing": peers.missing, "differing": other}))
        return 0
    print(f"kernels: {kernels.in_use()}, load {os.getloadavg()[0]:.1f}")
    show(found)
    for name, why in peers.missing.items():
        print(f"missing: {name} ({why})")
    compared = sum(not task.startswith("quantise") and not task.endswith("bf16") for task in peers.tasks)
    print("\n".join(other) or f"{compared} results of peers were compared, all are the same")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
