"""Restore the tree of a bundle, byte for byte; a run that was interrupted is taken up where it stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from modelkit.bundles import limits
from modelkit.bundles.codecs import decode
from modelkit.bundles.delta import restored
from modelkit.bundles.layout import DIGEST, HEAD, Entry, read_table
from modelkit.bundles.transforms import join, room
from modelkit.errors import BrokenFile, CannotAccess, ModelkitError, Refused
from modelkit.lazy import np
from modelkit.operations.bundle_base import check_base
from modelkit.operations.bundle_open import Bundle, Located
from modelkit.operations.bundle_pool import IN_FLIGHT, in_order
from modelkit.operations.bundle_restore import Destination, Parts, enough_room
from modelkit.operations.bundle_signature import open_signed
from modelkit.operations.checksum_work import Progress
from modelkit.sources import LocalFile

SYNC_SECONDS = 2.0  # work that a crash may cost
MANY = 256  # whole files that wait to be synced together


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What is there now."""

    bundle: Bundle
    files: int
    size: int
    resumed: int  # bytes that an earlier run had written


@dataclass(frozen=True, slots=True)
class _Stored:
    """A piece and where its stored bytes begin in the body."""

    number: int
    entry: Entry
    start: int


def unpack(
    path: str,
    destination: str,
    *,
    base: str | None = None,
    key: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Unpacked:
    """Unpack every volume that is there. Raises CannotAccess when some are missing: run again with them.

    The manifest is not needed: media may come one after the other, and only the last one brings it.

    `key`: refuse a bundle whose files its owner has not signed. The bundle's own folder is refused as a destination.
    """
    bundle = open_signed(path, key, partial=True)
    description = bundle.manifest.description
    places = [] if description.base is None else check_base(description.base, base)
    if Path(os.path.realpath(destination)).is_relative_to(os.path.realpath(bundle.path)):
        raise Refused(f"{destination}: lies in the bundle itself", "name a folder elsewhere")
    target = Destination(destination, description)
    if target.begin():
        enough_room(target.root, description.size - target.skipped)
        _Unpacking(bundle, target, threads or os.cpu_count() or 1, progress, places).all()
    return Unpacked(bundle, len(description.files), description.size, target.skipped)


class _Unpacking:
    """One run of `unpack`."""

    def __init__(
        self, bundle: Bundle, target: Destination, threads: int, progress: Progress | None, base: Sequence[Path]
    ) -> None:
        self.base = [LocalFile(place, place.name) for place in base]
        self.bundle = bundle
        self.target = target
        self.description = bundle.manifest.description
        self.depth = IN_FLIGHT * threads
        self.threads = threads
        self.parts = Parts(target)
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(self.depth):
            self._buffers.put(memoryview(bytearray(limits.PIECE)))
        self.sizes = [file.size for file in self.description.files]
        self._progress = progress
        self._added: dict[int, int] = {}
        self._whole: dict[int, None] = {}  # files that are whole and wait for their names, in order
        self._since = time.monotonic()

    def all(self) -> None:
        missing = [located for located in self.bundle.volumes if located.path is None]
        with ThreadPoolExecutor(self.threads) as executor:
            try:
                self._take_up()
                for located in self.bundle.present:
                    done = self.target.volumes.get(located.volume.number, 0)
                    if located.volume.kind == "data" and done < located.volume.pieces:
                        self._volume(located, done, executor)
            finally:
                self.parts.close()
        lost = [located for located in missing if located.volume.kind == "data"]
        lost = [one for one in lost if self.target.volumes.get(one.volume.number, 0) < one.volume.pieces]
        if lost:
            names = ", ".join(f"{located.volume.name} {located.why}" for located in lost[:5])
            fix = f"{_way(self.bundle.path)}; what is done stays done"
            raise CannotAccess(f"{self.bundle.path}: {names}", fix)
        unfinished = [file.path for n, file in enumerate(self.description.files) if n not in self.target.finished]
        if unfinished and self.bundle.partial:
            message = f"{len(unfinished):,} of {len(self.sizes):,} files are not whole yet: other volumes hold the rest"
            raise CannotAccess(
                f"{self.bundle.path}: {message}", "run again with the next medium; what is done stays done"
            )
        if unfinished:
            raise BrokenFile(f"{unfinished[0]}: no volume has all of it", "the bundle contradicts itself")
        self.target.end()

    def _take_up(self) -> None:
        """Empty files, and what a killed run had written but not named."""
        named = []
        for number, size in enumerate(self.sizes):
            if number not in self.target.finished and self.target.added[number] == size:
                if self.target.named_already(number):
                    self.target.finished.add(number)
                else:
                    self.parts.create(number)
                    self._finish(number)
                named.append({"finished": number})
        if named:
            self.target.add(*named)

    def _finish(self, number: int) -> None:
        digest = self.parts.digest(number)
        self.parts.forget(number)
        self.target.finish(number, digest)

    def _volume(self, located: Located, done: int, executor: Executor) -> None:
        volume, path = located.volume, located.path
        if path is None:
            return
        source = LocalFile(path, path.name)
        try:
            source.will_be_read()
            table = _table(source, located, self.description.stripe)
            entries = read_table(
                table,
                volume.pieces,
                volume.table,
                self.description.transforms,
                self.sizes,
                volume.name,
                [file.size for file in self.base],
            )
            stored = self._stored(source, located, entries, done, executor)
            work = partial(self._write, source)
            for piece, data in in_order(executor, work, self._opening(stored), self.depth):
                self._written(volume.number, piece, data)
                self._buffers.put(memoryview(data.obj))
            self._remember(volume.number, volume.pieces)
        finally:
            source.close()

    def _opening(self, pieces: Iterable[_Stored]) -> Iterator[_Stored]:
        """Files are opened here, where no other thread does."""
        for piece in pieces:
            for place in piece.entry.targets:
                self.parts.open(place.file)
            yield piece

    def _write(self, source: LocalFile, piece: _Stored) -> tuple[_Stored, memoryview]:
        """Decode a piece and write it to every place; in a thread. The buffer is to be given back."""
        entry = piece.entry
        transform = self.description.transforms[entry.transform]
        stored, at, planes = room().source[: entry.stored], 0, []
        source.read_into(HEAD + piece.start, stored)
        for coded, into in zip(entry.planes, room().planes(transform, entry.length), strict=True):
            planes.append(decode(coded, stored[at : at + coded.stored], into, f"piece {piece.number}"))
            at += coded.stored
        buffer = self._buffers.get()
        data = buffer[: entry.length]
        join(planes, transform, np.frombuffer(data, np.uint8))
        if entry.base is not None:
            before = room().base[: entry.length]
            self.base[entry.base.file].read_into(entry.base.offset, before)
            data[:] = restored(data, before, transform.delta).data
        for place in entry.targets:
            self.parts.write(place.file, place.offset, data)
        return piece, data

    def _written(self, volume: int, piece: _Stored, data: memoryview) -> None:
        for place in piece.entry.targets:
            self.parts.written(place.file, place.offset, data)
            self._added[place.file] = self._added.get(place.file, 0) + len(data)
        whole = [p.file for p in piece.entry.targets if self.target.added[p.file] == self.sizes[p.file]]
        self._whole.update(dict.fromkeys(whole))
        if time.monotonic() - self._since >= SYNC_SECONDS or len(self._whole) >= MANY:
            self._remember(volume, piece.number + 1)
        if self._progress is not None:
            self._progress(self.parts.size, self.description.size)

    def _remember(self, volume: int, pieces: int) -> None:
        self.parts.sync()
        if pieces > self.target.volumes.get(volume, 0):
            self.target.volumes[volume] = pieces
            self.target.add({"volume": volume, "pieces": pieces, "files": self._added})
        whole = [file for file in self._whole if file not in self.target.finished]
        for file in whole:
            self._finish(file)
        if whole:
            self.target.add(*({"finished": file} for file in whole))
        self._added, self._whole = {}, {}
        self._since = time.monotonic()

    def _stored(
        self, source: LocalFile, located: Located, entries: Iterable[Entry], done: int, executor: Executor
    ) -> Iterator[_Stored]:
        """Pieces `done` and on, each when all stripes that it lies in are verified.

        Its bytes are read again to be decoded: from the page cache, and a file's own digest watches over them.
        """
        stripe, cleared, start = self.description.stripe, -1, 0
        verified: Iterator[int] = iter(())
        for number, entry in enumerate(entries):
            end = start + entry.stored
            if number >= done:
                if cleared < 0:
                    cleared = start // stripe * stripe
                    verified = self._verified(source, located, start // stripe, executor)
                while cleared < end:
                    cleared = (next(verified) + 1) * stripe
                yield _Stored(number, entry, start)
            start = end

    def _verified(self, source: LocalFile, located: Located, first: int, executor: Executor) -> Iterator[int]:
        """The numbers of a volume's stripes from `first` on, each checked."""
        stripe, digests = self.description.stripe, located.volume.stripes

        def verify(number: int) -> int:
            buffer = room().source[:stripe]
            check_stripe(source, number, buffer, digests, located.volume.name)
            return number

        return in_order(executor, verify, range(first, located.volume.body // stripe), self.depth)


def _way(folder: Path) -> str:
    """What to do about volumes that are not there: a medium that is read only is added to nowhere."""
    if os.access(folder, os.W_OK):
        return "copy them into the folder and run again, or repair the bundle"
    return "copy the bundle to a folder that can be written, add them or repair it there, and unpack from it"


def check_stripe(source: LocalFile, number: int, into: memoryview, digests: bytes, name: str) -> None:
    """Read a stripe. Raises BrokenFile when it is not what the manifest says."""
    try:
        source.read_into(HEAD + number * len(into), into)
        good = hashlib.sha256(into).digest() == digests[DIGEST * number : DIGEST * (number + 1)]
    except ModelkitError:
        good = False
    if not good:
        message = f"{name}: stripe {number} is damaged"
        raise BrokenFile(message, "run `modelkit bundle repair`, or copy the volume again; what is done stays done")


def _table(source: LocalFile, located: Located, stripe: int) -> bytes:
    """The piece table, out of stripes that were verified."""
    volume = located.volume
    first, last = volume.table // stripe, -(-(volume.table + volume.table_size) // stripe)
    data = memoryview(bytearray((last - first) * stripe))
    for number in range(first, last):
        place = (number - first) * stripe
        check_stripe(source, number, data[place : place + stripe], volume.stripes, volume.name)
    start = volume.table - first * stripe
    return bytes(data[start : start + volume.table_size])
