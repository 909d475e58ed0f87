"""Where an output is built: under `.part` names, renamed when it is whole, never half under a final name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISREG

from modelkit.errors import BadRequest, CannotAccess, Refused
from modelkit.execute import files_of_journal, fsync, is_journal, is_sealing
from modelkit.jobs import Folders
from modelkit.moving import reserve, write_at
from modelkit.plan import Plan
from modelkit.sources import Disk, LocalFile, explained

EXTRA_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)  # no link leads a write elsewhere


class Destination:
    """A file (with companions) or a folder, its `.part` twin and its journal, which is the lock too."""

    def __init__(self, text: str) -> None:
        self.folder = text.endswith(("/", os.sep))
        self.path = Path(text)
        if self.path.name in ("", "..") or "\0" in text:
            raise BadRequest(f"{text}: names nothing that could be made", "give the output a name of its own")
        self.part = self.path.with_name(self.path.name + ".part")
        self.journal = self.path.with_name(self.path.name + ".journal")
        self.old = self.path.with_name(self.path.name + ".old")
        self._made: list[Path] = []

    @property
    def name(self) -> str:
        """What the main file is called inside the layout."""
        return self.path.name

    def folders(self, source: Disk) -> Folders:
        if self.folder:
            return Folders(str(source.root), str(self.part))
        return Folders(str(source.root), str(self.path.parent), ".part")

    def final(self, file: str) -> Path:
        return self.path / file if self.folder else self.path.with_name(file)

    def partial(self, file: str) -> Path:
        return self.part / file if self.folder else self.path.with_name(file + ".part")

    def check(self, sources: Iterable[Path], plan: Plan, *, force: bool, new: bool = False) -> None:
        """Refuse what would touch a source, overwrite anything, cannot be written, or does not fit.

        `new`: the journal was made just now, as a lock, and says nothing about what else is there.
        """
        parent = self.path.parent
        if not parent.is_dir():
            raise CannotAccess(f"{parent}: no such folder", "make it first")
        if not os.access(parent, os.W_OK):
            raise CannotAccess(f"{parent}: cannot be written", "choose a folder that you may write to")
        self.refuse_sources(sources, plan)
        if not force:
            self.refuse_existing(plan)
        if self.path.exists() and self.folder != self.path.is_dir():
            kinds = ("a file", "a folder") if self.folder else ("a folder", "a file")
            raise Refused(f"{self.path}: is {kinds[0]}, {kinds[1]} was asked for", "choose another name")
        for final in self._finals(plan):
            if final.exists() and not (final.is_file() or final.is_dir()):
                raise Refused(f"{final}: is neither a file nor a folder", "choose another name")
        self._refuse_foreign(plan, new=new)
        self._check_space(plan)

    def refuse_existing(self, plan: Plan) -> None:
        """Refuse to replace what stands under a final name."""
        for taken in self._finals(plan):
            if os.path.lexists(taken):
                raise Refused(f"{taken}: is there already", "choose another name, or replace it with --force")

    def refuse_sources(self, sources: Iterable[Path], plan: Plan) -> None:
        """A source may be nothing that is written, nor lie in a folder that is replaced."""
        read = list(sources)
        origins = {source.resolve() for source in read}
        numbers = {_number(source) for source in read} - {None}
        for taken in [*self._finals(plan), *self._beside(plan)]:
            if taken.resolve() in origins or _number(taken) in numbers:
                raise Refused(f"{taken}: is the source itself", "choose another destination")
        for folder in (self.path, self.part, self.old) if self.folder else ():
            replaced = folder.resolve()
            if any(origin.is_relative_to(replaced) for origin in origins):
                raise Refused(f"{folder}: holds the source", "choose another destination")

    def _finals(self, plan: Plan) -> list[Path]:
        """What is there in the end. A set of files is named after its path, which itself is not written."""
        return [*([self.path] if self.folder else []), *(self.final(file.name) for file in plan.layout.files)]

    def _beside(self, plan: Plan) -> list[Path]:
        """The working names: what stands there is replaced or removed."""
        own = [self.part, self.journal, *([self.old] if self.folder else [])]
        return [*own, *self.partials(plan)]

    def _refuse_foreign(self, plan: Plan, *, new: bool) -> None:
        """What lies under a working name is removed only where a journal says that an unfinished run left it."""
        unfinished = is_journal(self.journal) and not new
        for path in self._beside(plan):
            own = unfinished and (path != self.old or is_sealing(self.journal))  # the old one is moved away last of all
            if not own and os.path.lexists(path) and not (new and path == self.journal):
                message = f"{path}: is there already, and no unfinished conversion left it"
                raise Refused(message, "move it away: modelkit builds the output under this name")

    def _check_space(self, plan: Plan) -> None:
        held = sum(_allocated(self.partial(file.name)) for file in plan.layout.files)
        free = shutil.disk_usage(self.path.parent).free
        missing = plan.layout.size - held - free
        if missing > 0:
            message = (
                f"{self.path.parent}: {plan.layout.size:,} bytes are needed, {free:,} are free ({missing:,} missing)"
            )
            raise CannotAccess(message, "free some space or choose another disk")

    def unfinished(self, main: str | None) -> Disk:
        """What is written so far, to be read as if it had its final names; `main` is None for a folder."""
        if self.folder and main is None:
            return Disk(self.part)
        return Unfinished(self, str(main))

    def discard(self) -> None:
        """Remove all that an unfinished run left. The journal goes last: it says that the rest was modelkit's own."""
        self.clear()
        _remove(self.journal)

    def clear(self) -> None:
        """Remove what an unfinished run left but its journal, also one that cut the set otherwise."""
        for path in [*self._made, *self._cut_otherwise(), self.part]:
            _remove(path)
        self._made.clear()

    def _cut_otherwise(self) -> list[Path]:
        """Partial files that the journal names, and whose names are those of a numbered set of this destination."""
        numbered = re.compile(re.escape(self.path.stem) + r"-\d{5}-of-\d{5}" + re.escape(self.path.suffix))
        named = [] if self.folder else files_of_journal(self.journal)
        return [self.partial(name) for name in named if numbered.fullmatch(name)]

    def prepare(self, plan: Plan, *, fresh: bool) -> None:
        """Make every output file at its final size, with the bytes that are known already."""
        if self.folder:
            with explained(self.part):
                self.part.mkdir(exist_ok=not fresh)
        for file in plan.layout.files:
            path = self.partial(file.name)
            self._made.append(path)
            with explained(path):
                flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0) | EXTRA_FLAGS
                opened = os.open(path, flags, 0o644)
                try:
                    os.truncate(opened if os.truncate in os.supports_fd else path, file.size)
                    reserve(opened, file.size)
                    for start, data in file.literals:
                        write_at(opened, start, memoryview(data))
                finally:
                    os.close(opened)

    def partials(self, plan: Plan) -> list[Path]:
        return [self.partial(file.name) for file in plan.layout.files]

    def unseal(self, plan: Plan) -> None:
        """Take back the final names that an interrupted `seal` had given already."""
        pairs = [(self.path, self.part)]
        if not self.folder:
            pairs = [(self.final(file.name), self.partial(file.name)) for file in plan.layout.files]
        files = {self.final(file.name): file.size for file in plan.layout.files}
        for final, partial in pairs:
            if os.path.lexists(final) and not os.path.lexists(partial) and self._sealed(final, files):
                with explained(final):
                    final.rename(partial)

    def _sealed(self, final: Path, files: Mapping[Path, int]) -> bool:
        """Whether what stands there is as `seal` left it: what somebody added or changed since is not ours to take."""
        with explained(final):
            if final.is_symlink() or self.folder != final.is_dir():
                return False
            found = sorted(final.iterdir()) if self.folder else [final]
            if self.folder and found != sorted(files):
                return False
            since = self.journal.stat().st_mtime_ns
            states = [(files[path], path.lstat()) for path in found]
            return all(
                S_ISREG(state.st_mode) and state.st_size == size and state.st_mtime_ns <= since
                for size, state in states
            )

    def seal(self, plan: Plan, *, force: bool) -> None:
        """Sync everything, then rename: the main file last, a folder whole; the old one goes last of all."""
        for path in self.partials(plan):
            fsync(path)
        if not force:
            self.refuse_existing(plan)  # it may have appeared meanwhile
        if self.folder:
            fsync(self.part)
            with explained(self.path):
                if force and os.path.lexists(self.path):  # without it nothing may go: renaming over a full folder fails
                    _remove(self.old)
                    self.path.rename(self.old)
                self.part.rename(self.path)
            fsync(self.path.parent)
            _remove(self.old)
        else:
            for file in reversed(plan.layout.files):
                with explained(self.final(file.name)):
                    os.replace(self.partial(file.name), self.final(file.name))
            fsync(self.path.parent)
        _remove(self.journal)


def _remove(path: Path) -> None:
    """A file, a link (not what it points to) or a whole folder; nothing where nothing is."""
    with explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _number(path: Path) -> tuple[int, int] | None:
    """Device and inode, which all links to a file share; None where nothing is."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


class Unfinished(Disk):
    """The files of a destination under the names that they will have."""

    def __init__(self, destination: Destination, main: str) -> None:
        self._destination = destination
        self.path = destination.final(main)
        self.title = os.fspath(self.path)
        self.root = destination.part if destination.folder else destination.path.parent
        self.main: str | None = main
        self._open: dict[str, LocalFile] = {}

    def names(self) -> list[str]:
        ending = "" if self._destination.folder else ".part"
        return [name.removesuffix(ending) for name in super().names() if name.endswith(ending)]

    def place(self, name: str) -> Path:
        return self._destination.partial(name)


def _allocated(path: Path) -> int:
    """Bytes that a partial file holds on disk already."""
    try:
        state = path.stat()
    except OSError:
        return 0
    return min(getattr(state, "st_blocks", 0) * 512, state.st_size)
