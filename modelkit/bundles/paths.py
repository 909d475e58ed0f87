"""Which paths a bundle may name: none that leads out of the folder it is unpacked into, on any system."""

from __future__ import annotations

from collections.abc import Iterable

from modelkit.bundles import limits

WORKING = ".modelkit-unpack"
"""The folder below a destination in which files are built; no path of a tree begins with it."""


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
