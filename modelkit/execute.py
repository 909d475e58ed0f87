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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.errors import BadValue, Refused
from modelkit.kernels import arrays
from modelkit.lazy import np
from modelkit.moving import move, pieces, write_at
from modelkit.plan import Job, Plan
from modelkit.repacking import Door, repack
from modelkit.sources import LocalFile, explained
from modelkit.tensors import Importance, Span

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

SYNC_SECONDS = 2.0  # work that a crash may cost
JOURNAL = b'{"plan": "'  # how every journal begins
SEALING = '{"sealing": true}'  # the journal's last line: everything is written and files get their final names
SLAB = 1 << 18  # values compared at once where they were shifted
MOST_IN_FLIGHT = 256  # jobs handed out at once: waiting for one of them takes time that grows with their number


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
    """What one job did: the difference of real values before and after, and its bytes' checksum.

    No checksum where bytes were only moved: what they should be stands in the source. `beyond`: a repacked weight
    moved by more than the precision of its scale.
    """

    job: int
    crc: int | None
    largest_error: float = 0.0
    squared_error: float = 0.0
    squared_values: float = 0.0
    beyond: bool = False


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
            while waiting and len(flying) < MOST_IN_FLIGHT and (not flying or used + waiting[0][1].memory <= budget):
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
    if job.moves:
        for read, write in zip(job.reads, job.writes, strict=True):
            move(folders.reading(read.file), read, folders.writing(write.file), write)
        return Done(number, None)
    if job.in_slabs:
        return _in_slabs(number, job, folders)
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
            written = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in packed(job, values)]
        except BadValue as error:
            raise BadValue(error.message, error.fix, index=job.first + error.index, tensor=job.tensor) from None
        after = job.target.unpack(written, values.shape)
        errors = shifted_difference(before, after, shift) if shift else difference(values, after)
    crc = 0
    for span, data in zip(job.writes, written, strict=True):
        crc = zlib.crc32(data.data, crc)
        _write(folders.writing(span.file), span, data)
    return Done(number, crc, *errors)


def _in_slabs(number: int, job: Job, folders: Folders) -> Done:
    """What layouts need. Errors are not measured here: what was written is opened again and compared as a whole."""

    def write(span: Span, data: Array) -> None:
        _write(folders.writing(span.file), span, data)

    beyond = repack(job, Door(lambda span: _read(folders.reading(span.file), span), write, weights))
    return Done(number, _crc(folders.writing, job.writes), beyond=beyond)


def packed(job: Job, values: F32) -> tuple[Array, ...]:
    """The stored arrays; with importance, each matrix of the tensor by its own."""
    importance = job.importance
    if importance is None:
        return job.target.pack(values)
    columns, size = importance.columns, importance.columns * importance.rows
    flat = values.reshape(-1)
    pieces = []
    first, last = job.first, job.first + len(flat)
    while first < last:
        matrix = first // size
        end = min((matrix + 1) * size, last)
        run = flat[first - job.first : end - job.first].reshape(-1, columns)
        try:
            pieces.append(job.target.pack(run, weights(importance, matrix)))
        except BadValue as error:
            raise BadValue(error.message, error.fix, index=first - job.first + error.index) from None
        first = end
    return tuple(np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*pieces, strict=True))


def weights(importance: Importance, matrix: int) -> F32:
    """float32 [column]: the mean of what a column of this matrix was multiplied with, squared."""
    count = importance.counts[matrix]
    if count <= 0:
        return np.ones(importance.columns, np.float32)
    span = Span(importance.file, importance.start + 4 * importance.columns * matrix, 4 * importance.columns)
    sums: F32 = _read(importance.file, span).view("<f4").astype(np.float32)
    return sums / np.float32(count)


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


class Journal:
    """What is done, as JSON lines: a head that names plan and sources, then one line a job."""

    def __init__(self, path: Path, plan: Plan, sources: Mapping[str, Any]) -> None:
        self.path = path
        files = [file.name for file in plan.layout.files]
        self.head = {"plan": plan.digest, "sources": dict(sources), "files": files}
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
            head = dict(json.loads(lines[0]))
        except (ValueError, IndexError, TypeError):
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

    def sealing(self, done: Iterable[Done]) -> None:
        """Say that everything is done and synced: a run that is killed between two renames can be taken up."""
        lines = [json.dumps(self.head), *(json.dumps(asdict(one)) for one in done), SEALING]
        part = self.path.with_name(self.path.name + ".new")
        with explained(self.path):
            part.unlink(missing_ok=True)  # of an earlier run, or a link that leads elsewhere
            with part.open("x") as file:
                file.write("\n".join(lines) + "\n")
            fsync(part)
            part.replace(self.path)

    def was_sealing(self) -> bool:
        """Whether an earlier run of this very plan was interrupted while files got their final names."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
            return lines[-1] == SEALING and json.loads(lines[0]) == self.head
        except (OSError, ValueError, IndexError):
            return False

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


def is_journal(path: Path) -> bool:
    """Whether a journal stands there, be it one that was cut off while its head was written."""
    if not path.is_file() or path.is_symlink():
        return False
    with explained(path), path.open("rb") as file:
        start = file.read(len(JOURNAL))
    return JOURNAL.startswith(start)


def files_of_journal(path: Path) -> list[str]:
    """The output files that an unfinished run named in its journal; none where no whole head stands."""
    if not is_journal(path):
        return []
    with explained(path), path.open("rb") as file:
        line = file.readline()
    try:
        found = json.loads(line).get("files")
    except (ValueError, AttributeError, RecursionError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def still_there(plan: Plan, folders: Folders, done: Iterable[Done]) -> list[Done]:
    """Those finished jobs whose bytes are on disk as their checksum, or for moved bytes the source, says."""
    return [one for one in done if one.job < len(plan.jobs) and _stands(plan.jobs[one.job], one, folders)]


def _stands(job: Job, done: Done, folders: Folders) -> bool:
    if done.crc is None and not job.moves:
        return False
    wanted = _crc(folders.reading, job.reads) if done.crc is None else done.crc
    return _crc(folders.writing, job.writes) == wanted


def _crc(place: Callable[[str], str], spans: Iterable[Span]) -> int:
    crc = 0
    for span in spans:
        for piece in pieces(place(span.file), span):
            crc = zlib.crc32(piece, crc)
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
