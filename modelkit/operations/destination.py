"""Where an output is built: under `.part` names, renamed when it is whole, never half under a final name."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from modelkit.errors import CannotAccess, Refused
from modelkit.execute import Folders, fsync, write_at
from modelkit.plan import Plan
from modelkit.sources import Disk, LocalFile, explained


class Destination:
    """A file (with companions) or a folder, its `.part` twin, journal and lock."""

    def __init__(self, text: str) -> None:
        self.folder = text.endswith(("/", os.sep))
        self.path = Path(text)
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

    def check(self, source: Disk, plan: Plan, *, force: bool) -> None:
        """Refuse what would overwrite, what cannot be written, and what does not fit."""
        parent = self.path.parent
        if not parent.is_dir():
            raise CannotAccess(f"{parent}: no such folder", "make it first")
        if not os.access(parent, os.W_OK):
            raise CannotAccess(f"{parent}: cannot be written", "choose a folder that you may write to")
        own = [self.path] if self.folder else []  # a set of files is named after its path, which itself is not written
        for taken in [*own, *(self.final(file.name) for file in plan.layout.files)]:
            if os.path.lexists(taken):
                self._refuse_source(source, plan, taken)
                if not force:
                    raise Refused(f"{taken}: is there already", "choose another name, or replace it with --force")
        if self.path.exists() and self.folder != self.path.is_dir():
            kinds = ("a file", "a folder") if self.folder else ("a folder", "a file")
            raise Refused(f"{self.path}: is {kinds[0]}, {kinds[1]} was asked for", "choose another name")
        self._check_space(plan)

    def _refuse_source(self, source: Disk, plan: Plan, taken: Path) -> None:
        """No file of the source may be the destination, nor lie in a folder that is replaced."""
        origin = source.path.resolve()
        target = taken.resolve()
        read = {source.root / span.file for job in plan.jobs for span in job.reads}
        for path in (source.path, *sorted(read)):
            if path.resolve() == target or (taken.exists() and os.path.samefile(path, taken)):
                raise Refused(f"{taken}: is the source itself", "choose another destination")
        if self.folder and target == self.path.resolve() and origin.is_relative_to(target):
            raise Refused(f"{taken}: holds the source", "choose another destination")

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
        """Remove what an unfinished run left, also one that cut the same set into another number of files."""
        if self.folder and self.part.is_dir():
            shutil.rmtree(self.part)
        numbered = re.compile(re.escape(self.path.stem) + r"-\d{5}-of-\d{5}" + re.escape(self.path.suffix) + r"\.part")
        others = [] if self.folder else [path for path in self.path.parent.iterdir() if numbered.fullmatch(path.name)]
        for path in [*self._made, *others, self.part, self.journal]:
            if path.is_file():
                path.unlink()
        self._made.clear()

    def prepare(self, plan: Plan, *, fresh: bool) -> None:
        """Make every output file at its final size, with the bytes that are known already."""
        if self.folder:
            with explained(self.part):
                self.part.mkdir(exist_ok=not fresh)
        for file in plan.layout.files:
            path = self.partial(file.name)
            self._made.append(path)
            with explained(path):
                flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0) | getattr(os, "O_BINARY", 0)
                opened = os.open(path, flags, 0o644)
                try:
                    os.truncate(opened if os.truncate in os.supports_fd else path, file.size)
                    for start, data in file.literals:
                        write_at(opened, start, memoryview(data))
                finally:
                    os.close(opened)

    def partials(self, plan: Plan) -> list[Path]:
        return [self.partial(file.name) for file in plan.layout.files]

    def unseal(self, plan: Plan) -> None:
        """Take back the final names that an interrupted `seal` had given already."""
        pairs: list[tuple[Path, Path, int | None]] = [(self.path, self.part, None)]
        if not self.folder:
            pairs = [(self.final(file.name), self.partial(file.name), file.size) for file in plan.layout.files]
        for final, partial, size in pairs:
            if final.exists() and not partial.exists() and size in (None, final.stat().st_size):
                with explained(final):
                    final.rename(partial)

    def seal(self, plan: Plan) -> None:
        """Sync everything, then rename: the main file last, a folder whole; the old one goes last of all."""
        for path in self.partials(plan):
            fsync(path)
        if self.folder:
            fsync(self.part)
            replaced = self.path.exists()
            with explained(self.path):
                if replaced:
                    if self.old.exists():
                        shutil.rmtree(self.old)
                    self.path.rename(self.old)
                self.part.rename(self.path)
            fsync(self.path.parent)
            if replaced:
                shutil.rmtree(self.old)
        else:
            for file in reversed(plan.layout.files):
                with explained(self.final(file.name)):
                    os.replace(self.partial(file.name), self.final(file.name))
            fsync(self.path.parent)
        self.journal.unlink(missing_ok=True)


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
