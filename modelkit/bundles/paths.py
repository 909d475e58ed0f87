"""Which paths a bundle may name: none that leads out of the folder it is unpacked into, on any system."""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import normalize

from modelkit.bundles import limits

WORKING = ".modelkit-unpack"
"""The folder below a destination in which files are built; no path of a tree begins with it."""

NO_NAME = re.compile(r'(CON|PRN|AUX|NUL|(COM|LPT)[1-9\u00b9\u00b2\u00b3]) *(\..*)?|.*([<>:"|?*].*|[. ])', re.I | re.S)
"""Names that Windows does not have, or takes for devices."""


def fault_of(path: str) -> str | None:
    """Why a path is refused, in words; None when it is good."""
    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        return "is no valid UTF-8"
    parts = path.split("/")
    if not path or size > limits.PATH or len(parts) > limits.DEPTH:
        return f"is empty, longer than {limits.PATH} bytes or deeper than {limits.DEPTH} folders"
    if any(part in ("", ".", "..") for part in parts):
        return "is not a plain relative path"
    if any(letter == "\\" or letter < " " or letter == "\x7f" for letter in path):
        return "has a backslash or a control character"
    return f"begins with {WORKING}" if parts[0] == WORKING else None


def clash_of(files: Iterable[str], folders: Iterable[str]) -> str | None:
    """A path that stands twice, or that is a file and a folder at once; None when there is none."""
    names = list(files)
    seen = set(names)
    if len(seen) != len(names):
        return next(name for name in names if names.count(name) > 1)
    above: set[str] = set()
    for path in [*names, *folders]:
        parts = path.split("/")
        above.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for path in folders:
        above.add(path)
    return next((name for name in names if name in above), None)


def alike_without_case(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of files or folders that are one name on systems that ignore case and the form of accents."""
    seen: dict[str, str] = {}
    found = []
    for path in _with_folders(paths):
        other = seen.setdefault(normalize("NFC", normalize("NFC", path).casefold()), path)
        if other != path:
            found.append((other, path))
    return found


def impossible_on_windows(paths: Iterable[str]) -> list[str]:
    """Files and folders whose own name Windows cannot have: devices, signs of its own, a dot or a space at the end.

    Source: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
    """
    return [path for path in _with_folders(paths) if NO_NAME.fullmatch(path.rpartition("/")[2])]


def _with_folders(paths: Iterable[str]) -> Iterable[str]:
    """The paths and all folders above them, each once, in order."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split("/")
        found.update(dict.fromkeys("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)))
    return found
