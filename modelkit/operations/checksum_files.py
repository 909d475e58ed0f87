"""Which files a path stands for, and their digests."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelkit.errors import BrokenFile, CannotAccess, ModelkitError
from modelkit.operations.checksum_work import Meter, Updates, hash_span
from modelkit.sources import LocalFile, explained
from modelkit.sums import GIT

GIT_INDEX = "git-index"
"""git's name of what it keeps of a file: the content, or the pointer that git-lfs puts in its place."""

MOST_LINKED = 1_000
"""Folders behind links: a few that lead to each other show the same folder along more ways than can be walked."""

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that was not read, and why; `error` where it is a path of the call itself."""

    path: str
    reason: str
    error: ModelkitError | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """The digests of a file's bytes, by algorithm."""

    size: int
    digests: Mapping[str, str]


def own_output() -> tuple[int, int] | None:
    """Device and number of the file that standard output goes to; None where it is no file."""
    try:
        found = os.fstat(1)
    except OSError:  # closed
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def is_same(path: str, output: tuple[int, int] | None) -> bool:
    """Whether a path is the file that `own_output` told of."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == output


def files_of(path: str, unread: list[Unread]) -> Iterator[str]:
    """A file as it was named; all files below a folder, sorted, with `/` between names.

    Links are followed within the folder and within a Hugging Face cache; others, and what is no file, go to
    `unread`. Raises CannotAccess for a path that is not there.
    """
    with explained(path):
        kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        yield from _below(path, unread)
    elif stat.S_ISREG(kind):
        yield path
    else:
        raise CannotAccess(f"{path}: is neither a file nor a folder")


def _below(folder: str, unread: list[Unread]) -> Iterator[str]:
    home = _home(Path(folder).resolve())
    found: list[str] = []
    waiting, linked = [(folder, frozenset({os.path.realpath(folder)}), False)], 0
    while waiting:
        place, above, below_link = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            unread.append(Unread(place, (error.strerror or str(error)).lower()))
            continue
        for entry in entries:
            path = f"{place.rstrip('/')}/{entry.name}" if place != "" else entry.name
            reason = _obstacle(entry, home)
            if reason:
                unread.append(Unread(path, reason))
            elif not entry.is_dir():
                found.append(path)
            elif (real := os.path.realpath(entry.path)) not in above:  # what leads back up has no end
                inside = below_link or entry.is_symlink()
                linked += inside
                if inside and linked > MOST_LINKED:
                    unread.append(Unread(path, f"one of more than {MOST_LINKED:,} folders behind links"))
                    break
                waiting.append((path, above | {real}, inside))
    yield from sorted(found)


def _home(folder: Path) -> Path:
    """The folder that links may not leave: that of the whole repository in a Hugging Face cache."""
    for parent in (folder, *folder.parents):
        if (parent / "snapshots").is_dir() and (parent / "blobs").is_dir():
            return parent
    return folder


def _obstacle(entry: os.DirEntry[str], home: Path) -> str:
    """Why an entry of a folder is not read; "" when it is."""
    if entry.is_symlink():
        try:
            real = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            return "a link that leads nowhere"
        if not real.is_relative_to(home):
            return "a link that leads out of the folder: name its target to include it"
    return "" if entry.is_file() or entry.is_dir() else "is neither a file nor a folder"


def size_of(path: str) -> int:
    """Bytes of a file; 0 for one that is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def content(path: str, algorithms: Iterable[str], meter: Meter) -> Content:
    """Read a file once and digest it. Raises BrokenFile when it changes meanwhile, CannotAccess."""
    with explained(path):
        before = os.stat(path)
    if not stat.S_ISREG(before.st_mode):
        raise CannotAccess(f"{path}: is no file")  # a pipe would be waited for without end
    wanted = tuple(algorithms)
    states = _states(wanted, before.st_size)
    source = LocalFile(Path(path), path)
    try:
        source.will_be_read()
        hash_span(source, 0, before.st_size, list(states.values()), meter)
    finally:
        source.close()
    with explained(path):
        after = os.stat(path)
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise BrokenFile(f"{path}: changed while it was read", "run again when nothing writes to it", "changed-file")
    found = {name: state.hexdigest() for name, state in states.items()}
    if GIT_INDEX in wanted:
        found[GIT_INDEX] = found[GIT]
    return Content(before.st_size, found)


def pointer_name(sha256: str, size: int) -> str:
    """git's name of the pointer that git-lfs keeps for a file of this digest and size."""
    text = POINTER.format(sha256, size).encode()
    return _git(len(text), text).hexdigest()


class _State(Updates, Protocol):
    """What hashlib gives."""

    def hexdigest(self) -> str: ...


def _states(algorithms: Sequence[str], size: int) -> dict[str, _State]:
    states: dict[str, _State] = {}
    for name in algorithms:
        if name in (GIT, GIT_INDEX):
            states[GIT] = _git(size)
        if name == GIT_INDEX:
            states["sha256"] = hashlib.sha256()
        elif name != GIT:
            states[name] = hashlib.new(name, usedforsecurity=False)
    return states


def _git(size: int, data: bytes = b"") -> _State:
    return hashlib.sha1(b"blob %d\x00" % size + data, usedforsecurity=False)
