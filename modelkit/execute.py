"""Carry out a plan: jobs on any executor, within a memory budget, with a journal to resume from.

The only door for concurrency. Jobs finish out of order; each reports what it did to the values and the
checksum of the bytes that it wrote. A journal line is written only after the data it claims is synced.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from modelkit.errors import Refused
from modelkit.jobs import Done, Folders, carry_out, checksum
from modelkit.moving import keep_memory
from modelkit.plan import Job, Plan
from modelkit.sources import explained

SYNC_SECONDS = 2.0  # work that a crash may cost
JOURNAL = b'{"plan": "'  # how every journal begins
SEALING = '{"sealing": true}'  # the journal's last line: everything is written and files get their final names
MOST_IN_FLIGHT = 256  # jobs handed out at once: waiting for one of them takes time that grows with their number


def execute(
    plan: Plan, folders: Folders, executor: Executor, budget: int, finished: Iterable[int] = ()
) -> Iterator[Done]:
    """Yield each job's Done as it finishes; jobs in flight never plan to use more than `budget` bytes together."""
    keep_memory()
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
        except (ValueError, IndexError, TypeError, RecursionError):
            return []  # killed while the head was written: nothing was done yet
        start_over = "run again without --resume to start over"
        if head.get("sources") != self.head["sources"]:
            raise Refused(f"{self.path}: the source has changed since this conversion began", start_over)
        if head.get("plan") != self.head["plan"]:
            raise Refused(f"{self.path}: belongs to another plan (other options, or another version)", start_over)
        found = (_done(line) for line in lines[1:])
        return list({done.job: done for done in found if done is not None}.values())

    def sealing(self) -> None:
        """Say that everything is done and synced: a run that is killed between two renames can be taken up."""
        self._append("", SEALING)  # an empty line first: what was being written when a run was killed has no end

    def was_sealing(self) -> bool:
        """Whether an earlier run of this very plan was interrupted while files got their final names."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
            return lines[-1] == SEALING and bool(json.loads(lines[0]) == self.head)
        except (OSError, ValueError, IndexError, RecursionError):
            return False

    def keep(self, done: Done, sync: Iterable[Path]) -> None:
        """Remember a finished job; now and then sync the data and then say so."""
        self._unsynced.append(done)
        if time.monotonic() - self._since >= SYNC_SECONDS:
            self.flush(sync)

    def flush(self, sync: Iterable[Path]) -> None:
        for path in sync:
            fsync(path)
        self._append(*(json.dumps(asdict(done)) for done in self._unsynced))
        self._unsynced.clear()
        self._since = time.monotonic()

    def _append(self, *lines: str) -> None:
        with explained(self.path), self.path.open("a") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())


def _done(line: str) -> Done | None:
    """What a line says; None for one that was being written, for the mark of sealing and for what nobody wrote."""
    try:
        found = Done(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    whole = all(type(number) is int and number >= 0 for number in (found.job, found.crc or 0))
    errors = (found.largest_error, found.squared_error, found.squared_values)
    return found if whole and all(type(error) in (int, float) for error in errors) else None


def is_journal(path: Path) -> bool:
    """Whether a journal stands there, be it one that was cut off while its head was written."""
    if not path.is_file() or path.is_symlink():
        return False
    with explained(path), path.open("rb") as file:
        start = file.read(len(JOURNAL))
    return JOURNAL.startswith(start)


def is_sealing(path: Path) -> bool:
    """Whether a journal says last that everything is written."""
    with explained(path):
        return path.read_text(errors="replace").splitlines()[-1:] == [SEALING]


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
    wanted = checksum(folders.reading, job.reads) if done.crc is None else done.crc
    return checksum(folders.writing, job.writes) == wanted


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
def locked(path: Path) -> Iterator[bool]:
    """Hold the journal, so that two runs cannot write one destination; yields whether it was made just now.

    One that was made and that nothing was written into goes again. No lock where the system has none.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    while True:
        file, made = _journal_file(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise Refused(f"{path}: another run is writing this destination", "wait for it to end") from None
        except OSError:
            pass  # a file system without locks
        if _stands_at(file, path):
            break
        os.close(file)  # its run has ended and removed it: a lock on it would keep nobody out
    try:
        yield made
    finally:
        if made and _stands_at(file, path) and not os.fstat(file).st_size:
            path.unlink()
        os.close(file)


def _journal_file(path: Path) -> tuple[int, bool]:
    """The open journal, and whether it was made; a link is not followed."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    while True:
        with explained(path):
            try:
                return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                pass
            try:
                return os.open(path, flags), False
            except FileNotFoundError:
                pass  # its run has ended meanwhile


def _stands_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that stands at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except OSError:
        return False


def work(job: Job) -> int:
    """A job's size for progress: values."""
    return prod(job.shape)
