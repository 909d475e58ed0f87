"""The parity volumes while data volumes stream past: P ^= A * D.

Each data volume makes new files, so that a crash costs one volume:
`.modelkit-bundle/parity-0002.after-0007` holds what parity volume 2 is after data volume 7 (head and body).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.bundles.layout import HEAD, Head, name_of
from modelkit.bundles.parity import accumulate, matrix
from modelkit.errors import Refused
from modelkit.execute import fsync
from modelkit.lazy import np
from modelkit.moving import write_at
from modelkit.operations.bundle_plan import Sizing
from modelkit.sources import LocalFile, explained

if TYPE_CHECKING:
    from modelkit.tensors import Array


class ParityFiles:
    """m files that grow with the bundle. `heads`: the first bytes of each."""

    def __init__(self, folder: Path, sizing: Sizing, bundle: bytes) -> None:
        self.folder = folder
        self.count = sizing.parity
        self.stripe = sizing.stripe
        self.rows = matrix(sizing.parity, sizing.columns) if sizing.parity else ()
        self.heads = [Head("parity", number + 1, bundle, sizing.stripe).pack() for number in range(self.count)]
        self._new: list[int] = []
        self._old: list[LocalFile] = []
        self._column: list[int] = []
        self._body = 0  # of the volumes before; what a shorter one lacks is zeros
        self._stripes = 0

    @staticmethod
    def path(folder: Path, number: int, after: int) -> Path:
        """Where parity volume `number` (from 1) stands after `after` data volumes."""
        return folder / f"parity-{number:04d}.after-{after:04d}"

    def begin(self, volume: int) -> None:
        """Data volume `volume` (from 1) starts."""
        self.abandon()
        if self.count and volume + self.count > 256:
            message = f"data needs more volumes than go with --parity {self.count}: {256 - self.count}, of 256 in all"
            raise Refused(message, "choose a larger --volume-size, or less --parity")
        self._column = [row[volume - 1] for row in self.rows]
        self._stripes = 0
        for number in range(self.count):
            path = self.folder / f"parity-{number + 1:04d}.new"
            with explained(path):
                self._new.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644))
                write_at(self._new[-1], 0, memoryview(self.heads[number]))
            if volume > 1:
                before = self.path(self.folder, number + 1, volume - 1)
                self._old.append(LocalFile(before, before.name))
        self._body = self._old[0].size - HEAD if self._old else 0

    def absorb(self, number: int, stripe: memoryview) -> None:
        """Stripe `number` of the volume that passes."""
        into = [self._read(old, number) for old in self._old] or self._zeros()
        accumulate(into, self._column, stripe)
        self._write(number, into)
        self._stripes = number + 1

    def _zeros(self) -> list[Array]:
        return [np.zeros(self.stripe, np.uint8) for _ in range(self.count)]

    def _read(self, old: LocalFile, number: int) -> Array:
        buffer = np.empty(self.stripe, np.uint8)
        old.read_into(HEAD + number * self.stripe, buffer.data)
        return buffer

    def _write(self, number: int, stripes: Sequence[Array]) -> None:
        for place, file in enumerate(self._new):
            with explained(self.folder):
                write_at(file, HEAD + number * self.stripe, stripes[place].data)

    def end(self, volume: int) -> None:
        """The volume is whole: what it lacks counts as zeros. Its files get the name that says so."""
        for number in range(self._stripes, self._body // self.stripe if self._old else 0):
            self._write(number, [self._read(old, number) for old in self._old])
        for number, file in enumerate(self._new):
            path = self.path(self.folder, number + 1, volume)
            with explained(path):
                os.fsync(file)
                os.close(file)
                os.replace(self.folder / f"parity-{number + 1:04d}.new", path)
        self._new = []
        self.abandon()
        if self.count:
            fsync(self.folder)

    def forget(self, volume: int) -> None:
        """The journal has volume `volume`: what stood before it is of no use any more."""
        for number in range(self.count):
            self.path(self.folder, number + 1, volume - 1).unlink(missing_ok=True)

    def abandon(self) -> None:
        for file in self._new:
            os.close(file)
        for old in self._old:
            old.close()
        self._new, self._old = [], []

    def take_back(self, bundle: Path, volumes: int) -> None:
        """Undo the final names that an interrupted run has given."""
        for number in range(1, self.count + 1):
            path, final = self.path(self.folder, number, volumes), bundle / name_of("parity", number)
            with explained(final):
                if final.is_file() and not path.exists():
                    final.rename(path)

    def digests(self, volumes: int, body: int) -> list[bytes]:
        """The stripe digests of each parity body, `body` bytes, when all `volumes` have passed."""
        found = []
        buffer = memoryview(bytearray(self.stripe))
        for number in range(1, self.count + 1):
            path = self.path(self.folder, number, volumes)
            source = LocalFile(path, path.name)
            digests = []
            for at in range(HEAD, HEAD + body, self.stripe):
                source.read_into(at, buffer)
                digests.append(hashlib.sha256(buffer).digest())
            source.close()
            found.append(b"".join(digests))
        return found
