"""Where the names of a list lead: never out of the places that the user has named or stands in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from modelkit.errors import BrokenFile
from modelkit.sums import Entry, Kind


class Places:
    """The working folder, the folder of the list, and the paths of the call.

    Without paths, a name is looked up in the working folder, as sha256sum does, then beside the list. With
    paths it must be one of them, or lie in one of them: as it stands, or below it.
    """

    def __init__(self, paths: Sequence[str], folder: str, where: str) -> None:
        self._paths = paths
        self._folder = folder
        self._where = where
        self._roots = [os.path.abspath(place) for place in ("", folder, *paths)]

    def admit(self, entry: Entry) -> None:
        """Raises BrokenFile for a name that leads out of all places."""
        name = entry.name
        if os.name == "nt":
            name = name.replace("\\", "/")
        bases = ["", self._folder, *self._paths]
        if not any(self._inside(os.path.abspath(os.path.join(base, name))) for base in bases):
            absolute = "an absolute path" if os.path.isabs(name) else "a path that leaves the folder"
            message = f"{self._where}: names '{entry.name[:200]}', {absolute}"
            folder, where = shlex.quote(os.path.dirname(entry.name)[:200]), shlex.quote(self._where)
            fix = f"nothing was read; if that is meant, name the folder: modelkit checksum {folder} --check {where}"
            raise BrokenFile(message, fix, "manifest-path-escapes")

    def find(self, entry: Entry, asked: Kind) -> tuple[str, str, Kind] | None:
        """(path, tensor or "", kind) of an entry; None for one that the paths of the call do not include.

        `asked` is the kind that the call says. A name of no kind is a file's, that of a folder a model's;
        `FILE:TENSOR` where only FILE is there.
        """
        kind = entry.kind if entry.kind != "unknown" else asked
        whole = self._candidates(entry.name)
        if kind != "tensor":
            there = next(filter(os.path.lexists, whole), None)
            if there is not None or kind != "unknown":
                path = there or next(iter(whole), None)
                plain: Kind = "model" if path and os.path.isdir(path) else "file"  # a folder has no other digest
                return (path, "", plain if kind == "unknown" else kind) if path else None
        at = entry.name.find(":")
        while at > 0:
            for path in self._candidates(entry.name[:at]):
                if os.path.isfile(path):
                    return path, entry.name[at + 1 :], "tensor"
            at = entry.name.find(":", at + 1)
        if kind == "tensor":
            file, _, tensor = entry.name.partition(":")
            path = next(iter(self._candidates(file)), None)
            return (path, tensor, "tensor") if path else None
        return (whole[0], "", "file") if whole else None

    def _candidates(self, name: str) -> list[str]:
        found = [name, os.path.join(self._folder, name)]
        if self._paths:
            inside = [path for path in found if self._below_a_path(path)]
            found = [*inside, *(under for path in self._paths if (under := self._under(path, name)))]
        return [path for path in dict.fromkeys(found) if self._inside(os.path.abspath(path))]

    def _under(self, path: str, name: str) -> str | None:
        if os.path.isdir(path):
            return os.path.join(path, name)
        return path if os.path.basename(path) == os.path.basename(name) else None

    def _below_a_path(self, path: str) -> bool:
        return any(_below(os.path.abspath(path), os.path.abspath(place)) for place in self._paths)

    def _inside(self, path: str) -> bool:
        return any(_below(path, root) for root in self._roots)


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
