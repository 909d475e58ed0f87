"""Verdicts measured while converting, and the receipt that keeps them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit import __version__
from modelkit.jobs import Done
from modelkit.lazy import np
from modelkit.plan import ORDER, Expectation, Plan
from modelkit.sources import explained

if TYPE_CHECKING:
    from modelkit.operations.convert import Result
    from modelkit.operations.opening import Opened

CHUNK = 1 << 20

Errors = tuple[float, float, float]
"""Largest absolute difference, sum of squared differences, sum of squares of what was there before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened to one tensor's real values. Errors: largest absolute; root of squares relative to the tensor's."""

    tensor: str
    source: str
    from_encoding: str
    to_encoding: str
    verdict: Expectation
    largest_error: float
    relative_error: float


def verdicts(plan: Plan, done: Iterable[Done], proved: Mapping[int, Errors] | None = None) -> tuple[Verdict, ...]:
    """One for each tensor, from the measurements of its jobs. A difference of nothing is EXACT.

    `proved`: by place in the plan, what comparing the written file with the source found.
    """
    beyond: set[int] = set()
    largest = [0.0] * len(plan.assignments)
    squared = [0.0] * len(plan.assignments)
    values = [0.0] * len(plan.assignments)
    for one in done:
        tensor = plan.jobs[one.job].tensor
        largest[tensor] = max(largest[tensor], one.largest_error)
        squared[tensor] += one.squared_error
        values[tensor] += one.squared_values
        if one.beyond:
            beyond.add(tensor)
    for tensor, errors in (proved or {}).items():
        largest[tensor], squared[tensor], values[tensor] = errors
    found = []
    for number, way in enumerate(plan.assignments):
        relative = sqrt(squared[number] / values[number]) if values[number] else 0.0
        expected: Expectation = "REQUANTISED" if number in beyond else way.expectation
        verdict: Expectation = expected if largest[number] else "EXACT"
        ways = (way.source.encoding.name, way.target.encoding.name)
        found.append(Verdict(way.target.name, way.source.name, *ways, verdict, largest[number], relative))
    return tuple(found)


def summary(found: Iterable[Verdict]) -> list[tuple[Expectation, int, float]]:
    """(verdict, how many tensors, their largest relative error), the best verdict first."""
    kept = list(found)
    lines = []
    for verdict in ORDER:
        errors = [one.relative_error for one in kept if one.verdict == verdict]
        if errors:
            lines.append((verdict, len(errors), max(errors)))
    return lines


def fingerprints(opened: Opened, *, as_read: bool = False) -> dict[str, list[int]]:
    """Size, time of change and number of every file that tensors are read from: a changed one is noticed.

    `as_read`: as they were when their headers were read, which may be some time ago, not as they are now.
    """
    found = {}
    for name in sorted({span.file for span in opened.model.spans.values()}):
        path = opened.disk.place(name)
        with explained(path):
            state = opened.disk.open(name).state if as_read else path.stat()
        found[name] = [state.st_size, state.st_mtime_ns, state.st_ino]
    return found


def receipt(result: Result) -> dict[str, Any]:
    """The whole record as JSON: digests of every source and target file, versions, verdicts."""
    prepared = result.prepared
    opened, plan, destination = prepared.opened, prepared.plan, prepared.destination
    sources = {name: opened.disk.root / name for name in fingerprints(opened)}
    targets = {file.name: destination.final(file.name) for file in plan.layout.files}
    return {
        "schema_version": 1,
        "versions": {"modelkit": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "source": {"name": opened.disk.path.name, "format": opened.format.title, "files": digests(sources)},
        "target": {"name": destination.name, "to": prepared.request.to, "files": digests(targets)},
        "plan": plan.digest,
        "verdicts": {verdict: count for verdict, count, _ in summary(result.verdicts)},
        "tensors": [asdict(one) for one in result.verdicts],
        "notes": list(result.notes),
    }


def digests(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """{name: {"bytes", "sha256"}}, two files at a time."""
    with ThreadPoolExecutor(2) as executor:
        found = executor.map(_digest, paths.values())
    return {
        name: {"bytes": path.stat().st_size, "sha256": digest}
        for (name, path), digest in zip(paths.items(), found, strict=True)
    }


def _digest(path: Path) -> str:
    state, buffer = hashlib.sha256(), bytearray(CHUNK)
    with explained(path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(memoryview(buffer)[:count])
    return state.hexdigest()
