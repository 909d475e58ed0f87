"""Restore damaged and lost volumes from parity: beside, verified, then renamed; or nothing at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.bundles import limits
from modelkit.bundles.layout import DIGEST, HEAD, name_of
from modelkit.bundles.manifest import Manifest
from modelkit.bundles.parity import Matrix, Recovery, accumulate, matrix, recovery
from modelkit.errors import BrokenFile, CannotAccess, Refused
from modelkit.execute import fsync
from modelkit.lazy import np
from modelkit.moving import write_at
from modelkit.operations import bundle_documents
from modelkit.operations.bundle_open import MANIFEST, NAME, standing
from modelkit.operations.bundle_signature import open_signed
from modelkit.operations.bundle_verify import SUMS, UNLISTED, Verified, VolumeState, check, read_stripe
from modelkit.operations.checksum_work import Progress
from modelkit.sources import LocalFile, explained, write_whole

if TYPE_CHECKING:
    from modelkit.tensors import Array

BESIDE = ".repair"
ASIDE = ".stale"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done. `unrepaired`: small files that cannot be made again, and why.

    `unproven`: files that the new SHA256SUMS lists as they are, since the damaged one alone had known their digests.
    """

    before: Verified
    volumes: tuple[str, ...]
    stripes: int
    documents: tuple[str, ...]
    aside: tuple[str, ...]
    unrepaired: Mapping[str, str]
    unproven: tuple[str, ...]


def repair(
    path: str,
    *,
    key: str | None = None,
    media: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Make the bundle whole. Raises Refused, with nothing changed, where parity does not suffice; CannotAccess.

    `key`: refuse a bundle that its owner has not signed. `media`: read from the medium, not from the page cache.
    """
    bundle = open_signed(path, key, media=media)
    before = check(bundle, threads=threads, progress=progress)
    if not before.repairable:
        raise Refused(*_too_much(before))
    if not before.whole and not os.access(bundle.path, os.W_OK):
        fix = "copy the bundle to a folder that can be written, and repair it there"
        raise CannotAccess(f"{path}: cannot be written", fix)
    if before.damaged:
        _Rebuilding(before).run()
    misnamed = [state.path.name for state in before.damaged if state.path and NAME.fullmatch(state.path.name)]
    others = dict.fromkeys((*bundle.strangers, *misnamed))
    aside = tuple(_put_aside(bundle.path, name) for name in others if _is_stranger(bundle.path, name, before))
    documents, unrepaired = _documents(before)
    unproven = tuple(name for name in UNLISTED if SUMS[0] in documents and _plain(standing(bundle.path / name)))
    fsync(bundle.path)
    stripes, volumes = sum(len(state.bad) for state in before.volumes), tuple(s.volume.name for s in before.damaged)
    return Repaired(before, volumes, stripes, documents, aside, unrepaired, unproven)


def _too_much(before: Verified) -> tuple[str, str]:
    place = before.hopeless[0]
    names = [state.volume.name for state in before.volumes if place in state.bad]
    parity = before.bundle.manifest.description.parity
    message = (
        f"stripe {place}: {len(names)} volumes are damaged there ({', '.join(names[:6])}), {parity} can be restored"
    )
    more = len(names) - parity
    return message, f"copy {more} of these volumes again; nothing was changed"


class _Rebuilding:
    """Writes every damaged volume anew, stripe by stripe."""

    def __init__(self, before: Verified) -> None:
        self.manifest: Manifest = before.bundle.manifest
        self.folder = before.bundle.path
        self.states = before.volumes
        self.damaged = before.damaged
        self.places = [place for place, state in enumerate(before.volumes) if not state.whole]
        self.stripe = self.manifest.description.stripe
        self.data = len(self.manifest.data)
        parity = self.manifest.description.parity
        self.rows: Matrix = matrix(parity, self.manifest.description.columns) if parity else ()

    def run(self) -> None:
        paths = [self.folder / (state.volume.name + BESIDE) for state in self.damaged]
        try:
            with ExitStack() as stack:
                sources = [self._open(state, stack) for state in self.states]
                files = [self._create(path, stack) for path in paths]
                self._write(sources, files)
            self._give_names(paths)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def _give_names(self, paths: list[Path]) -> None:
        """All are whole. What stands under a name and is another volume is kept until that has its name too."""
        spares = []
        for state, path in zip(self.damaged, paths, strict=True):
            final = self.folder / state.volume.name
            with explained(path):
                if any(other.path == final and other is not state for other in self.states):
                    free = (self.folder / name_of("data", number) for number in range(limits.VOLUMES, 0, -1))
                    spares.append(next(one for one in free if not os.path.lexists(one)))
                    os.replace(final, spares[-1])
                _make_way(final)
                os.replace(path, final)
        for spare in spares:
            with explained(spare):
                spare.unlink()

    @staticmethod
    def _open(state: VolumeState, stack: ExitStack) -> LocalFile | None:
        if state.path is None:
            return None
        source = LocalFile(state.path, state.path.name)
        stack.callback(source.close)
        return source

    @staticmethod
    def _create(path: Path, stack: ExitStack) -> int:
        with explained(path):
            path.unlink(missing_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        stack.callback(os.close, file)
        return file

    def _write(self, sources: list[LocalFile | None], files: list[int]) -> None:
        for state, file in zip(self.damaged, files, strict=True):
            self._put(file, 0, self.manifest.head(state.volume))
            self._put(file, HEAD + state.volume.body, self.manifest.tail(state.volume))
        for number in range(max(state.volume.body for state in self.damaged) // self.stripe):
            self._stripe(number, sources, files)
        for file in files:
            with explained(self.folder):
                os.fsync(file)

    def _stripe(self, number: int, sources: list[LocalFile | None], files: list[int]) -> None:
        bad = tuple(place for place, state in enumerate(self.states) if number in state.bad)
        rebuilt = self._rebuilt(number, bad, sources) if bad else {}
        for place, state, file in zip(self.places, self.damaged, files, strict=True):
            if number >= state.volume.body // self.stripe:
                continue
            data = rebuilt[place].data if place in rebuilt else self._good(place, number, sources)
            if hashlib.sha256(data).digest() != state.volume.stripes[DIGEST * number : DIGEST * (number + 1)]:
                message = f"{state.volume.name}: stripe {number} came out wrong"
                raise BrokenFile(message, "a volume changed meanwhile, or the memory is failing: nothing was changed")
            self._put(file, HEAD + number * self.stripe, data)

    def _rebuilt(self, number: int, bad: tuple[int, ...], sources: list[LocalFile | None]) -> dict[int, Array]:
        plan = _recovery(self.data, self.rows, bad)
        into = [np.zeros(self.stripe, np.uint8) for _ in plan.lost]
        for place, column in zip(plan.use, plan.columns, strict=True):
            if number < self.states[place].volume.body // self.stripe:  # what a shorter volume lacks counts as zeros
                accumulate(into, column, self._good(place, number, sources))
        return dict(zip(plan.lost, into, strict=True))

    def _good(self, place: int, number: int, sources: list[LocalFile | None]) -> bytes:
        source = sources[place]
        data = read_stripe(source, number, self.stripe) if source is not None else None
        if data is None:
            raise BrokenFile(f"{self.states[place].volume.name}: changed while it was read", "run again")
        return data

    def _put(self, file: int, start: int, data: bytes | memoryview) -> None:
        with explained(self.folder):
            write_at(file, start, memoryview(data))


@lru_cache(maxsize=64)
def _recovery(data: int, rows: Matrix, lost: tuple[int, ...]) -> Recovery:
    return recovery(data, rows, lost)


def _is_stranger(folder: Path, name: str, before: Verified) -> bool:
    """Not where a restored volume has taken the name, on some systems in letters of any case."""
    path, own = folder / name, folder / name.lower()
    taken = name in {state.volume.name for state in before.volumes}
    return os.path.lexists(path) and not taken and not (own != path and own.exists() and own.samefile(path))


def _put_aside(folder: Path, name: str) -> str:
    """A volume that does not belong keeps its bytes under another name."""
    with explained(folder / name):
        os.replace(folder / name, _aside(folder / name))
    return name


def _aside(path: Path) -> Path:
    """A name that is free: what an earlier repair put aside stays too."""
    names = (path.with_name(f"{path.name}{ASIDE}{number or ''}") for number in count())
    return next(name for name in names if not os.path.lexists(name))


def _make_way(path: Path) -> None:
    """A folder that stands in a file's place is put aside: a rename does not replace it."""
    if path.is_dir() and not path.is_symlink():
        with explained(path):
            os.replace(path, _aside(path))


def _write(path: Path, data: bytes) -> None:
    _make_way(path)
    write_whole(path, data)


def _documents(before: Verified) -> tuple[tuple[str, ...], dict[str, str]]:
    """Write again what follows from the manifest; say what does not."""
    manifest, folder = before.bundle.manifest, before.bundle.path
    wanted = {name for name in before.documents if name not in SUMS}
    made = bundle_documents.again(manifest) if wanted else {}
    made = {name: data for name, data in made.items() if _sha256(data) == manifest.documents.get(name)}
    done, left = [], {}
    for name in sorted(wanted - {MANIFEST}):
        if name in made:
            _write(folder / name, made[name])
            done.append(name)
        else:
            left[name] = before.documents[name]
    if before.bundle.faults or MANIFEST in before.documents:
        _write(folder / MANIFEST, manifest.pack())
        done.append(MANIFEST)
    if any(name in before.documents for name in SUMS):
        sums = _sums(manifest, folder)
        _write(folder / SUMS[0], sums)
        _write(folder / SUMS[1], f"{_sha256(sums)}  {SUMS[0]}\n".encode())
        done += SUMS
    return tuple(done), left


def _sums(manifest: Manifest, folder: Path) -> bytes:
    """SHA256SUMS anew: of volumes and documents that have been verified."""
    digests = {**manifest.documents, MANIFEST: _sha256(manifest.pack())}
    for name in (*(volume.name for volume in manifest.volumes), *UNLISTED):
        path = standing(folder / name)
        if _plain(path):
            with explained(path), path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
