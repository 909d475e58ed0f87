"""Bytes that a format reads from: here files on disk; a zip or a URL can offer the same two protocols."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from modelkit.errors import BrokenFile, CannotAccess, Refused

MOST_OPEN = 128  # files that a folder keeps open; systems allow a process a thousand or fewer
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
NO_URL = "only inspect and validate read URLs: download the file first"
HEAD = 4096
"""Bytes of a file that are enough to tell what it is."""


class Source(Protocol):
    """Bytes at addresses."""

    name: str
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`; raises when the source ends before."""


class Opener(Protocol):
    """A place that holds named sources: a file with its siblings, or a folder."""

    title: str
    main: str | None

    def names(self) -> list[str]:
        """File names in the folder, sorted; sub-folders are not entered."""

    def open(self, name: str) -> Source: ...

    def holds(self, name: str) -> bool: ...


class LocalFile:
    """A file on disk, read at positions; safe to share between threads."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.path = path
        self._lock = threading.Lock()
        with explained(path):
            self._file = open_file(path)
            self.state = os.fstat(self._file)  # as it was before anything was read of it
            self.size = self.state.st_size

    def read(self, start: int, size: int) -> bytes:
        with explained(Path(self.name)):
            pieces = []
            while size > 0:
                piece = self._read_at(start, size)
                if not piece:
                    raise self._ends_early(start, size)
                pieces.append(piece)
                start, size = start + len(piece), size - len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from `start`: for large runs, a buffer used again costs a fraction of a new one each time."""
        with explained(Path(self.name)):
            at = 0
            while at < len(buffer):
                count = self._fill(start + at, buffer[at:])
                if not count:
                    raise self._ends_early(start + at, len(buffer) - at)
                at += count

    def _ends_early(self, at: int, missing: int) -> BrokenFile:
        message = f"{self.name}: ended at byte {at:,}, {missing:,} bytes early"
        fix = "the file changed while it was read: run again when nothing writes to it"
        return BrokenFile(message, fix, rule="truncated-file", offset=at)

    def _fill(self, start: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file, [buffer], start)
        piece = self._read_at(start, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def will_be_read(self) -> None:
        """Tell the system that the file is about to be read from its beginning to its end."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _read_at(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file, size, start)
        with self._lock:  # Windows has no positioned read
            os.lseek(self._file, start, os.SEEK_SET)
            return os.read(self._file, size)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()


class Disk:
    """A path on disk as the user named it: a file (its siblings are in reach) or a folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.title = os.fspath(path)
        if not self.title or "\0" in self.title:
            raise CannotAccess(f"'{self.title}': is no path", "name a file or a folder")
        if is_url(self.title):
            raise CannotAccess(f"{self.title}: is a URL, not a path", NO_URL)
        with explained(self.path):
            folder = _is_folder(self.path)
        self.root = self.path if folder else self.path.parent
        self.main = None if folder else self.path.name
        self._open: dict[str, LocalFile] = {}

    def names(self) -> list[str]:
        with explained(self.root):
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_symlink() or entry.is_file())

    def names_in(self, folder: str) -> list[str]:
        """FOLDER/NAME of the files in a folder below; none where there is no such folder."""
        if not (self.root / folder).is_dir():
            return []
        with explained(self.root / folder):
            return sorted(f"{folder}/{entry.name}" for entry in os.scandir(self.root / folder) if entry.is_file())

    def place(self, name: str) -> Path:
        """Where a file lies."""
        return self.root / name

    def holds(self, name: str) -> bool:
        return self.place(name).is_file()

    def open(self, name: str) -> LocalFile:
        if name not in self._open:
            while len(self._open) >= MOST_OPEN:  # a file stays open for as long as someone holds it
                self._open.pop(next(iter(self._open)))
            self._open[name] = LocalFile(self.place(name), name)
        return self._open[name]

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


class explained:  # noqa: N801 - reads as a word in `with explained(path):`
    """Turns the operating system's errors into CannotAccess with the path and a way out."""

    def __init__(self, path: os.PathLike[str] | str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            fix = _way_out(error)
            if error.errno == errno.ENOENT and is_url(self.path):
                fix = NO_URL
            raise CannotAccess(f"{os.fspath(self.path)}: {_words(error)}", fix) from error


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path names something on another machine."""
    return URL.match(os.fspath(path)) is not None


def write_report(path: str, text: str) -> None:
    """Write a text whole or not at all. Raises CannotAccess."""
    write_whole(path, text.encode("utf-8"))


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: under a .part name, on the disk, then renamed. Raises CannotAccess.

    A link that stands under the .part name is replaced, not followed.
    """
    part = Path(f"{os.fspath(path)}.part")
    try:
        with explained(path):
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_report(path: str, models: Iterable[Path]) -> None:
    """A report can be written there, and it is no file of a model: raised before the work, not after it."""
    place = Path(path)
    with explained(place):
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if not place.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder")
    if place.exists() and (not place.is_file() or place.parent.resolve() == Path("/dev")):
        raise Refused(f"{path}: is no ordinary file, and a report would take its place", "name a file")
    for model in models:
        same = place.exists() and model.exists() and place.samefile(model)
        if same or place.resolve() == model.resolve():
            raise Refused(f"{path}: is a file of the model", "choose another name for the report")


def open_file(path: Path, *, follow: bool = True) -> int:
    """An ordinary file, to be read; a pipe or a device in its place is an OSError, and is not waited for.

    `follow`: a link may lead to it.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is no ordinary file")
    return file


def _is_folder(path: Path) -> bool:
    mode = path.stat().st_mode
    kind = mode & 0o170000
    if kind not in (0o040000, 0o100000):
        raise OSError(errno.EINVAL, "is neither a file nor a folder")
    return kind == 0o040000


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _way_out(error: OSError) -> str:
    return {
        errno.ENOENT: "check the path",
        errno.EACCES: "check the permissions of the file and its folders",
        errno.EPERM: "check the permissions of the file and its folders",
        errno.EROFS: "choose a destination that can be written",
        errno.ENOSPC: "free some space, then run again (a conversion with --resume)",
        errno.EDQUOT: "free some of your quota, then run again (a conversion with --resume)",
        errno.ELOOP: "the link points at itself: replace it by the file",
        errno.ENAMETOOLONG: "choose a shorter name",
    }.get(error.errno or 0, "")


def head(opener: Opener) -> bytes:
    """The first bytes of the file that was named; empty for a folder."""
    if opener.main is None:
        return b""
    source = opener.open(opener.main)
    return source.read(0, min(source.size, HEAD))
