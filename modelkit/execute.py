"""Carry out a plan: jobs on any executor, within a memory budget, with a journal to resume from.

The only door for concurrency. Jobs finish out of order; each reports what it did to the values and the
checksum of the bytes that it wrote. A journal line is written only after the data it claims is synced.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.errors import BadValue, Refused
from modelkit.kernels import arrays
from modelkit.lazy import np
from modelkit.plan import Job, Plan
from modelkit.sources import LocalFile, explained
from modelkit.tensors import Span

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SYNC_SECONDS = 2.0  # work that a crash may cost
SLAB = 1 << 18  # values compared at once when a shifted difference is measured


@dataclass(frozen=True, slots=True)
class Folders:
    """Where jobs find their files: `source / name` to read, `target / (name + suffix)` to write."""

    source: str
    target: str
    suffix: str = ""

    def reading(self, name: str) -> str:
        return os.path.join(self.source, name)

    def writing(self, name: str) -> str:
        return os.path.join(self.target, name + self.suffix)


@dataclass(frozen=True, slots=True)
class Done:
    """What one job did: the difference of real values before and after, and its bytes' checksum."""

    job: int
    crc: int
    largest_error: float = 0.0
    squared_error: float = 0.0
    squared_values: float = 0.0


def execute(
    plan: Plan, folders: Folders, executor: Executor, budget: int, finished: Iterable[int] = ()
) -> Iterator[Done]:
    """Yield each job's Done as it finishes; jobs in flight never plan to use more than `budget` bytes together."""
    skip = set(finished)
    waiting = deque((number, job) for number, job in enumerate(plan.jobs) if number not in skip)
    flying: dict[Future[Done], int] = {}
    used = 0
    try:
        while waiting or flying:
            while waiting and (not flying or used + waiting[0][1].memory <= budget):
                number, job = waiting.popleft()
                flying[executor.submit(carry_out, number, job, folders)] = job.memory
                used += job.memory
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                used -= flying.pop(future)
                yield future.result()
    finally:
        for future in flying:
            future.cancel()


def carry_out(number: int, job: Job, folders: Folders) -> Done:
    """Read, compute, measure, write. Raises BadValue with the place of a value that cannot be held."""
    stored = [_read(folders.reading(span.file), span) for span in job.reads]
    if job.copies:
        written = [_moved(job, data) for data in stored]
        errors = (0.0, 0.0, 0.0)
    else:
        values = job.source.unpack(stored, job.shape)
        del stored
        for step in job.steps:
            if not step.shift:
                values = step.apply(values.reshape(job.shape))
        before, shift = values, 0
        for step in job.steps:
            if step.shift:
                values, shift = step.apply(values), shift + step.shift
        try:
            written = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in job.target.pack(values)]
        except BadValue as error:
            raise BadValue(error.message, error.fix, index=job.first + error.index, tensor=job.tensor) from None
        after = job.target.unpack(written, values.shape)
        errors = shifted_difference(before, after, shift) if shift else difference(values, after)
    crc = 0
    for span, data in zip(job.writes, written, strict=True):
        crc = zlib.crc32(data.data, crc)
        _write(folders.writing(span.file), span, data)
    return Done(number, crc, *errors)


def difference(before: F32, after: F32) -> tuple[float, float, float]:
    """(largest absolute difference, sum of squared differences, sum of squares of `before`); NaN equals NaN."""
    one, other = before.reshape(-1), after.reshape(-1)
    if np.array_equal(one.view(np.uint32), other.view(np.uint32)):
        return 0.0, 0.0, 0.0
    return arrays.difference(one, other)


def shifted_difference(before: F32, after: F32, shift: int) -> tuple[float, float, float]:
    """The same three figures of what the values mean, where `shift` was added on the way.

    The larger side is the meaning: 1 + w. float64 cannot hold every such sum, so what its rounding loses is
    carried along (Knuth's two-sum): a difference of 0 is none.
    """
    largest, squared, total = 0.0, 0.0, 0.0
    one, other = before.reshape(-1), after.reshape(-1)
    for first in range(0, len(one), SLAB):
        was, now = (part[first : first + SLAB].astype(np.float64) for part in (one, other))
        finite = np.isfinite(was)
        was = np.where(finite, was, 0)
        sums = was + shift
        part = sums - was
        lost = (was - (sums - part)) + (shift - part)
        apart = np.where(finite, (now - sums) - lost, 0)
        meant = sums if shift > 0 else was
        largest = max(largest, float(np.abs(apart).max(initial=0.0)))
        squared += float(apart @ apart)
        total += float(np.sum(np.square(meant), where=finite))
    return largest, squared, total


def _moved(job: Job, data: Array) -> Array:
    if not job.steps:
        return data
    rows = data.reshape(job.shape[0], -1)
    for step in job.steps:
        rows = step.apply(rows)
    return rows.reshape(-1)


def _read(path: str, span: Span) -> Array:
    source = LocalFile(Path(path), span.file)
    try:
        return np.frombuffer(source.read(span.start, span.size), np.uint8)
    finally:
        source.close()


def _write(path: str, span: Span, data: Array) -> None:
    with explained(path):
        file = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            write_at(file, span.start, data.data)
        finally:
            os.close(file)


def write_at(file: int, start: int, data: memoryview) -> None:
    """All of `data` at `start`; a short write goes on."""
    while len(data):
        if hasattr(os, "pwrite"):
            count = os.pwrite(file, data, start)
        else:  # Windows: every job has its own descriptor, so the position is its own
            os.lseek(file, start, os.SEEK_SET)
            count = os.write(file, data)
        start, data = start + count, data[count:]


class Journal:
    """What is done, as JSON lines: a head that names plan and sources, then one line a job."""

    def __init__(self, path: Path, plan: Plan, sources: Mapping[str, Any]) -> None:
        self.path = path
        self.head = {"plan": plan.digest, "sources": dict(sources)}
        self._unsynced: list[Done] = []
        self._since = time.monotonic()

    def begin(self) -> None:
        """Start anew."""
        with explained(self.path):
            self.path.write_text(json.dumps(self.head) + "\n")

    def resume(self) -> list[Done]:
        """The jobs that an earlier run finished; refuses a journal of other sources or another plan."""
        with explained(self.path):
            lines = self.path.read_text(errors="replace").splitlines()
        try:
            head = json.loads(lines[0])
        except (ValueError, IndexError):
            return []  # killed while the head was written: nothing was done yet
        start_over = "run again without --resume to start over"
        if head.get("sources") != self.head["sources"]:
            raise Refused(f"{self.path}: the source has changed since this conversion began", start_over)
        if head.get("plan") != self.head["plan"]:
            raise Refused(f"{self.path}: belongs to another plan (other options, or another version)", start_over)
        found = []
        for line in lines[1:]:
            try:
                found.append(Done(**json.loads(line)))
            except (ValueError, TypeError):
                break  # the line that was being written
        return found

    def keep(self, done: Done, sync: Iterable[Path]) -> None:
        """Remember a finished job; now and then sync the data and then say so."""
        self._unsynced.append(done)
        if time.monotonic() - self._since >= SYNC_SECONDS:
            self.flush(sync)

    def flush(self, sync: Iterable[Path]) -> None:
        for path in sync:
            fsync(path)
        with explained(self.path), self.path.open("a") as file:
            file.writelines(json.dumps(asdict(done)) + "\n" for done in self._unsynced)
            file.flush()
            os.fsync(file.fileno())
        self._unsynced.clear()
        self._since = time.monotonic()


def still_there(plan: Plan, folders: Folders, done: Iterable[Done]) -> list[Done]:
    """Those finished jobs whose bytes are on disk as their checksum says."""
    return [one for one in done if one.job < len(plan.jobs) and _crc(plan.jobs[one.job], folders) == one.crc]


def _crc(job: Job, folders: Folders) -> int:
    crc = 0
    for span in job.writes:
        crc = zlib.crc32(_read(folders.writing(span.file), span).data, crc)
    return crc


def fsync(path: Path) -> None:
    """Push a file, or the entries of a folder, to the disk."""
    with explained(path):
        if path.is_dir() and os.name == "nt":
            return  # Windows cannot open folders; its renames are journaled
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two runs cannot write one destination; no lock where the system has none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with explained(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"{path}: another run is writing this destination", "wait for it to end") from None
        yield
    finally:
        os.close(file)


def work(job: Job) -> int:
    """A job's size for progress: values."""
    return prod(job.shape)
