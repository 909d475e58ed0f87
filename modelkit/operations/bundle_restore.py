"""Where a tree is unpacked: files are built under working names and get their own when their SHA-256 is right.

DEST/.modelkit-unpack/N.part     file N of the description, while it is built
DEST/.modelkit-unpack/journal    what is done: JSON lines, each written after the data that it claims is synced
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.bundles import limits
from modelkit.bundles.description import Description, TreeFile
from modelkit.bundles.paths import WORKING
from modelkit.errors import BrokenFile, CannotAccess, Refused
from modelkit.execute import fsync
from modelkit.moving import write_at
from modelkit.sources import LocalFile, explained

if TYPE_CHECKING:
    from hashlib import _Hash

OPEN = 64  # files at once
FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Destination:
    """The folder that receives the tree, with what an earlier run has done there."""

    def __init__(self, path: str, description: Description) -> None:
        self.root = Path(path)
        self.description = description
        self.working = self.root / WORKING
        self.journal = self.working / "journal"
        self.added = [0] * len(description.files)  # bytes written of each file
        self.finished: set[int] = set()
        self.volumes: dict[int, int] = {}  # pieces done of each volume, in order
        self.skipped = 0  # bytes that an earlier run had written

    def begin(self) -> bool:
        """Take up what is there, or start in a new or empty folder; False where nothing is left to do.

        Raises Refused for anything else.
        """
        with explained(self.root):
            if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
                raise Refused(f"{self.root}: is there already and is no folder", "choose another name")
            self.root.mkdir(exist_ok=True)
            if self.working.is_symlink() or (self.working.exists() and not self.working.is_dir()):
                raise Refused(f"{self.working}: is in the way", "remove it")
            if not self.journal.is_file():
                if any(entry.name != WORKING for entry in os.scandir(self.root)):
                    if self._whole():  # a run was killed when all was done, before it could say so
                        self.skipped = self.description.size
                        return False
                    message = f"{self.root}: holds files already, and no unfinished unpacking"
                    raise Refused(message, "choose a new or empty folder")
                self.working.mkdir(exist_ok=True)
                self._write_head()
                return True
        self._resume()
        return True

    def _whole(self) -> bool:
        """Whether every file is there with its SHA-256; what else lies in the folder is not looked at."""
        files = self.description.files
        places = [self.root / file.path for file in files]
        if not files or not all(place.is_file() for place in places):
            return False
        if not all(self._is(place, file) for place, file in zip(places, files, strict=True)):
            return False
        if self.working.is_dir() and not any(os.scandir(self.working)):
            self.working.rmdir()
        return True

    def _write_head(self) -> None:
        part = self.journal.with_name("journal.new")
        part.write_text(json.dumps({"bundle": self.description.id}) + "\n")
        fsync(part)
        part.replace(self.journal)
        fsync(self.working)

    def _resume(self) -> None:
        with explained(self.journal):
            data = self.journal.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        try:
            if json.loads(lines[0])["bundle"] != self.description.id:
                raise Refused(f"{self.root}: another bundle is being unpacked there", "choose another folder")
            for line in lines[1:]:
                self._take(json.loads(line))
            self._look_again()
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Refused(f"{self.journal}: is damaged", "remove the folder and unpack again") from None
        if whole < len(data):  # the line that was being written
            with explained(self.journal):
                os.truncate(self.journal, whole)
        self.skipped = sum(self.added)

    def _take(self, line: dict[str, Any]) -> None:
        if "finished" in line:
            self.finished.add(_number(line["finished"]))
        else:
            self.volumes[_number(line["volume"])] = _number(line["pieces"])
            for file, count in line["files"].items():
                self.added[_number(file)] += _number(count)

    def _look_again(self) -> None:
        """A finished file may have lost its name in a power cut, or somebody took it away."""
        for number in sorted(self.finished):
            wanted = self.description.files[number]
            place = self.root / wanted.path
            there = place.is_file() and not place.is_symlink() and place.stat().st_size == wanted.size
            if there:
                continue
            if not self.part(number).exists():
                raise Refused(f"{place}: was unpacked, and is no longer there", "remove the folder and unpack again")
            self.finished.discard(number)

    def add(self, *lines: dict[str, Any]) -> None:
        """Remember what is on the disk."""
        with explained(self.journal), self.journal.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def part(self, file: int) -> Path:
        return self.working / f"{file}.part"

    def finish(self, file: int, digest: str) -> None:
        """Give a whole file, synced, its name. Raises BrokenFile when its digest is wrong."""
        wanted = self.description.files[file]
        part, final = self.part(file), self.root / wanted.path
        if digest != wanted.sha256:
            message = f"{wanted.path}: came out with SHA-256 {digest[:16]}..., expected {wanted.sha256[:16]}..."
            raise BrokenFile(message, "the bundle contradicts itself: do not trust it")
        self._folders(wanted.path)
        with explained(final):
            if os.path.lexists(final):
                if not self._is(final, wanted):  # else a run was killed after the rename, before its line
                    raise Refused(f"{final}: is there already", "move it away, then run again")
                part.unlink()
                self.finished.add(file)
                return
            part.chmod(0o755 if wanted.executable else 0o644)
            part.rename(final)
        self.finished.add(file)

    def named_already(self, file: int) -> bool:
        """Whether a run was killed between a rename and its line in the journal: the file is whole, by its digest."""
        wanted = self.description.files[file]
        return not self.part(file).exists() and self._is(self.root / wanted.path, wanted)

    @staticmethod
    def _is(place: Path, wanted: TreeFile) -> bool:
        """Whether a file, no link, has the wanted bytes."""
        if place.is_symlink() or not place.is_file() or place.stat().st_size != wanted.size:
            return False
        with explained(place), place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == wanted.sha256

    def _folders(self, path: str) -> None:
        """The folders above a path, none of them a link."""
        place = self.root
        for part in path.split("/")[:-1]:
            self.folder(place := place / part)

    def folder(self, place: Path) -> None:
        with explained(place):
            try:
                place.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(place.lstat().st_mode):
                    raise Refused(f"{place}: is in the way", "choose a new or empty folder") from None

    def end(self) -> None:
        """Everything has its name: empty folders too; the working folder goes."""
        for path in self.description.folders:
            self._folders(path)
            self.folder(self.root / path)
        with explained(self.working):
            for entry in os.scandir(self.working):
                if entry.name != self.journal.name:
                    os.unlink(entry.path)
            self.journal.unlink()
            self.working.rmdir()
        fsync(self.root)


def _number(value: Any) -> int:
    """A whole number from 0 on; raises ValueError."""
    found = int(value)
    if found < 0:
        raise ValueError(value)
    return found


class Parts:
    """The partial files, open for writing from several threads; and the digest of each as far as it is in order."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._files: dict[int, int] = {}
        self._states: dict[int, tuple[_Hash, int]] = {}
        self.touched: set[int] = set()
        self.size = sum(destination.added)  # bytes written

    def open(self, file: int) -> None:
        """Keep a file open, as long as there are few; not to be called from several threads."""
        if file not in self._files and len(self._files) < OPEN:
            self._files[file] = self._descriptor(file)

    def create(self, file: int) -> None:
        """A file that nothing is written to."""
        os.close(self._descriptor(file))

    def _descriptor(self, file: int) -> int:
        path = self.destination.part(file)
        with explained(path):
            return os.open(path, FLAGS | os.O_CREAT, 0o600)

    def write(self, file: int, start: int, data: memoryview) -> None:
        """From any thread."""
        found = self._files.get(file)
        own = self._descriptor(file) if found is None else found
        try:
            with explained(self.destination.part(file)):
                write_at(own, start, data)
        finally:
            if found is None:
                os.close(own)

    def written(self, file: int, start: int, data: memoryview) -> None:
        """Bytes are in the file: digest them when they follow what was digested."""
        self.destination.added[file] += len(data)
        self.size += len(data)
        self.touched.add(file)
        state, at = self._states.get(file) or (hashlib.sha256(), 0)
        if start == at:
            state.update(data)
            self._states[file] = (state, at + len(data))

    def digest(self, file: int) -> str:
        """Of a file all of whose bytes are written: what was not digested in passing is read again."""
        state, at = self._states.pop(file) if file in self._states else (hashlib.sha256(), 0)
        size = self.destination.description.files[file].size
        source = LocalFile(self.destination.part(file), self.destination.part(file).name)
        try:
            for data in _blocks(source, at, size):
                state.update(data)
        finally:
            source.close()
        return state.hexdigest()

    def forget(self, file: int) -> None:
        found = self._files.pop(file, None)
        if found is not None:
            os.close(found)
        self.touched.discard(file)

    def sync(self) -> None:
        for file in sorted(self.touched):
            if file in self._files:
                with explained(self.destination.part(file)):
                    os.fsync(self._files[file])
            else:
                fsync(self.destination.part(file))
        self.touched.clear()

    def close(self) -> None:
        for found in self._files.values():
            os.close(found)
        self._files.clear()


def _blocks(source: LocalFile, start: int, size: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(limits.PIECE, max(size - start, 0))))
    for at in range(start, size, limits.PIECE):
        part = buffer[: min(limits.PIECE, size - at)]
        source.read_into(at, part)
        yield part


def enough_room(root: Path, wanted: int) -> None:
    """Raises CannotAccess when the disk cannot hold `wanted` more bytes."""
    place = root.resolve()
    while not place.exists():
        place = place.parent
    with explained(place):
        state = os.statvfs(place) if hasattr(os, "statvfs") else None
    free = state.f_bavail * state.f_frsize if state is not None else wanted
    if free < wanted:
        message = f"{root}: {wanted:,} bytes are needed, {free:,} are free"
        raise CannotAccess(message, "free some space or choose another disk; what is done stays done")
