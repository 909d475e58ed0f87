"""Turn facts into words: escaped names, sizes, counts, tables. Nothing here prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Control codes (C0, DEL, C1), marks that turn the direction of text, and bytes that were no UTF-8."""


def escape(text: object) -> str:
    """Text from a file, made safe for a terminal: `\\x1b`, `\\u202e`, `\\n` instead of the character."""
    return UNSAFE.sub(_code, str(text))


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(number)
    return short or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def size(number: int) -> str:
    """Bytes in MB and GB of powers of ten, as disks are sold."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return counted(number, "byte")


def count(number: int) -> str:
    """Parameters the way models are named: 134.52M, 1.10B."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= scale:
            return f"{number / scale:.2f}{unit}"
    return str(number)


def counted(number: int, word: str) -> str:
    """`1 volume`, `1,234 volumes`: words whose plural has an s."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shape(sizes: Sequence[int]) -> str:
    """`[576, 192]`."""
    return "[" + ", ".join(f"{size}" for size in sizes) + "]"


def seconds(number: float) -> str:
    """A rough length of time, as an estimate deserves."""
    if number < 1:
        return "under 1 s"
    if number < 120:
        return f"about {number:.0f} s"
    return f"about {number / 60:.0f} min" if number < 7200 else f"about {number / 3600:.1f} h"


def table(rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> list[str]:
    """Columns padded with two spaces between; the columns numbered in `right` are flush right."""
    cells = [[escape(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(w) if n in right else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines
