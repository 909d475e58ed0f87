"""What an interrupted `bundle create` has done: JSON lines, each written after the data that it claims is synced."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkit.bundles import limits
from modelkit.errors import Refused
from modelkit.execute import fsync
from modelkit.lazy import np
from modelkit.operations.bundle_plan import Sizing
from modelkit.sources import explained

if TYPE_CHECKING:
    from modelkit.tensors import Array

FOLDER = ".modelkit-bundle"
PRINT = 16  # bytes of a fingerprint
SYNC_SECONDS = 2.0  # reading that a crash may cost
VOLUME = {
    "name": str, "kind": str, "number": int, "body": int, "stripes": str, "table": int, "table_size": int,
    "pieces": int, "sha256": str, "size": int, "next": int, "last": bool,
}  # fmt: skip
"""What the line of a finished volume holds."""


@dataclass(slots=True)
class Done:
    """What the journal says: digests by file, finished volumes in order."""

    created: str = ""
    sizing: Sizing | None = None
    digests: dict[int, str] = field(default_factory=dict)
    volumes: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """The journal of one bundle, in a folder of its own inside it."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.folder = bundle / FOLDER
        self.path = self.folder / "journal"
        self.lock = self.folder / "lock"
        self._prints = self.folder / "prints"
        self._scanning = threading.Lock()
        self._scanned: list[dict[str, Any]] = []
        self._since = time.monotonic()

    def exists(self) -> bool:
        return self.path.is_file() and not self.path.is_symlink()

    def sizing(self) -> Sizing | None:
        """The layout that an interrupted run has fixed (with `auto` it cannot be found again)."""
        lines = self._lines()
        return self._sizing(lines[0]) if lines else None

    def begin(self, plan: dict[str, Any], sizing: Sizing, created: str) -> None:
        """Start anew."""
        numbers = [sizing.volume, sizing.body, sizing.stripe, sizing.parity, sizing.columns]
        part = self.path.with_name("journal.new")
        with explained(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._prints.unlink(missing_ok=True)
            part.write_text(json.dumps({"plan": plan, "sizing": numbers, "created": created}) + "\n")
            fsync(part)
            part.replace(self.path)
        fsync(self.folder)

    def resume(self, plan: dict[str, Any]) -> Done | None:
        """What an earlier run of this very plan did; None where none began. Refuses another plan or source."""
        lines = self._lines()
        if not lines:
            return None
        if lines[0]["plan"] != json.loads(json.dumps(plan)):
            message = f"{self.bundle}: holds an unfinished bundle of another source, or made with other options"
            raise Refused(message, "--force removes what that run wrote and begins anew")
        done = Done(str(lines[0]["created"]), self._sizing(lines[0]))
        for line in lines[1:]:
            if "scanned" in line:
                self._need(_fits(line, {"scanned": int, "sha256": str}))
                done.digests[line["scanned"]] = line["sha256"]
            elif "volume" in line:
                self._need(_fits(line["volume"], VOLUME) and line["volume"]["number"] == len(done.volumes) + 1)
                done.volumes.append(line["volume"])
        for volume in done.volumes:
            self._need_there(self.bundle / volume["name"], volume["size"])
        return done

    @staticmethod
    def _need_there(place: Path, size: int) -> None:
        """Raises Refused for a finished volume that somebody took away or cut."""
        if place.is_symlink() or not place.is_file() or place.stat().st_size != size:
            message = f"{place}: was finished, and is no longer there as it was"
            raise Refused(message, "put it back; or --force removes what that run wrote and begins anew")

    def _sizing(self, head: dict[str, Any]) -> Sizing:
        numbers = head["sizing"]
        self._need(isinstance(numbers, list) and len(numbers) == 5 and all(type(one) is int for one in numbers))
        found = Sizing(*numbers)
        one = found.volume == found.body == found.parity == found.columns == 0
        cut = limits.PIECE + 2 * found.stripe <= found.body < found.volume and found.body % max(found.stripe, 1) == 0
        apart = found.parity >= 0 <= found.columns and found.parity + found.columns <= limits.PARITY_SET
        self._need(found.stripe in limits.STRIPES and (one or (cut and apart)))
        return found

    def _need(self, good: bool) -> None:  # noqa: FBT001 - reads as a sentence
        """Raises Refused for what no run has written."""
        if not good:
            raise Refused(f"{self.path}: is damaged", "--force removes what that run wrote and begins anew")

    def _lines(self) -> list[dict[str, Any]]:
        if not self.exists():
            return []
        found: list[dict[str, Any]] = []
        with explained(self.path), self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found.append(dict(json.loads(line)))
                except (ValueError, TypeError, RecursionError):
                    break  # the line that was being written
        good = bool(found) and all(key in found[0] for key in ("plan", "sizing", "created"))
        return found if good else []

    def add(self, *lines: dict[str, Any]) -> None:
        """Remember what is on the disk."""
        with explained(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def tidy(self) -> None:
        """Cut off a last line that was never finished: what is added stands on lines of its own."""
        with explained(self.path):
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self.path, whole)

    def prints(self, pieces: int) -> Array:
        """The fingerprints, [piece, 16] uint8, kept in a file so that they outlive the run."""
        with explained(self._prints):
            if not self._prints.exists():
                self._prints.touch()
            if self._prints.stat().st_size != PRINT * pieces:
                os.truncate(self._prints, PRINT * pieces)
            if not pieces:
                return np.empty((0, PRINT), np.uint8)
            return np.memmap(self._prints, np.uint8, "r+", shape=(pieces, PRINT))

    def scanned(self, file: int, digest: str) -> None:
        """A file was read to its end. Many small ones are remembered together: the last ones are lost in a crash."""
        with self._scanning:
            self._scanned.append({"scanned": file, "sha256": digest})
            if time.monotonic() - self._since < SYNC_SECONDS:
                return
            lines, self._scanned, self._since = self._scanned, [], time.monotonic()
            fsync(self._prints)
            self.add(*lines)


def _fits(found: object, kinds: Mapping[str, type]) -> bool:
    """Whether an object of JSON has these members, of these very types."""
    return isinstance(found, dict) and all(type(found.get(name)) is kind for name, kind in kinds.items())
