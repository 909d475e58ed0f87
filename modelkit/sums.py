"""Lines of digests, in the words of sha256sum: written so that it reads them, read whether it or we wrote them.

    HEX  NAME             GNU: two spaces, or a space and a star
    SHA256 (NAME) = HEX   BSD, `--tag`; openssl leaves out the spaces

A line that begins with a backslash has its name escaped: \\\\, \\n and \\r as GNU does it. What could do harm on a
terminal (control codes, marks that turn text, bytes that are no UTF-8) is escaped too, as \\x1b or \\u202e; GNU
does not read those lines back, modelkit does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from modelkit.errors import BrokenFile

LONGEST_LINE = 65_536
"""Bytes: a path has at most 4,096, a tensor name with all of its characters escaped some more."""

LENGTHS = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
"""The algorithm of a GNU line, by its hexadecimal digits."""

MODEL = "modelkit-model-digest-v1"
GIT = "git-sha1"
ALGORITHMS = {**{name: length for length, name in LENGTHS.items()}, MODEL: 64, GIT: 40}
"""Hexadecimal digits of every algorithm that a list may name. `git-sha1` is git's name of a file's content."""

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of no bytes at all."""

Kind = Literal["file", "tensor", "model", "unknown"]

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\\\\]")
SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
ESCAPE = re.compile(r"\\(\\|n|r|x[0-9a-f]{2}|u[0-9a-f]{4}|.|$)", re.DOTALL)

GNU_LINE = re.compile(r"(\\)?([0-9a-fA-F]+) [ *](.+)", re.DOTALL)
BSD_LINE = re.compile(r"(\\)?([A-Za-z0-9-]+) ?\((.+)\) ?= ([0-9a-fA-F]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One digest of a list. `name` is a path, for a tensor `FILE:TENSOR`; `size` where the list has it."""

    name: str
    digest: str
    algorithm: str = "sha256"
    kind: Kind = "unknown"
    size: int | None = None


def line(entry: Entry, *, tag: bool = False) -> str:
    """The entry as a line, GNU or BSD."""
    name = UNSAFE.sub(_escaped, entry.name)
    mark = "" if name == entry.name else "\\"
    if tag:
        return f"{mark}{_bsd_name(entry.algorithm)} ({name}) = {entry.digest}"
    return f"{mark}{entry.digest}  {name}"


def parse_line(text: str, where: str) -> Entry | None:
    """The entry of a line; None for a line that is none. Raises BrokenFile for an algorithm that is not known."""
    found = GNU_LINE.fullmatch(text)
    if found is not None:
        mark, digest, name = found.groups()
        algorithm = LENGTHS.get(len(digest))
        kind: Kind = "unknown"
    else:
        found = BSD_LINE.fullmatch(text)
        if found is None:
            return None
        mark, algorithm, name, digest = found.groups()
        algorithm = _known(algorithm, where)
        kind = "model" if algorithm == MODEL else "unknown"
    if algorithm is None or len(digest) != ALGORITHMS[algorithm]:
        return None
    plain = _unescaped(name) if mark else name
    return None if plain is None else Entry(plain, digest.lower(), algorithm, kind)


def parse(data: bytes, where: str) -> Iterator[Entry | None]:
    """The entries of a list; None for each line that is none. Comments (#) and empty lines are passed over.

    Raises BrokenFile for what no list of digests has: lines of immense length, text that is not UTF-8, NUL.
    """
    for number, raw in enumerate(data.split(b"\n"), 1):
        place = f"{where}, line {number:,}"
        if len(raw) > LONGEST_LINE:
            message = f"{place}: has {len(raw):,} bytes; {LONGEST_LINE:,} are the most"
            raise BrokenFile(message, "this is no list of digests", "manifest-line-too-long")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            fix = "write the list again: `modelkit checksum` escapes such names"
            raise BrokenFile(f"{place}: is not UTF-8 at byte {error.start:,}", fix, "manifest-not-utf8") from None
        if "\x00" in text:
            raise BrokenFile(f"{place}: holds a NUL", "this is no list of digests", "manifest-not-text")
        text = text.removesuffix("\r")
        if text.strip() and not text.startswith("#"):
            yield parse_line(text, place)


def _bsd_name(algorithm: str) -> str:
    return algorithm if algorithm in (MODEL, GIT) else algorithm.upper()


def _known(name: str, where: str) -> str:
    plain = name.lower().replace("sha2-", "sha")
    if plain not in ALGORITHMS:
        fix = f"known are: {', '.join(ALGORITHMS)}"
        raise BrokenFile(f"{where}: names the algorithm {name}", fix, "manifest-unknown-algorithm")
    return plain


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    return SHORT.get(match[0]) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def _unescaped(name: str) -> str | None:
    """The name behind the escapes; None when one of them is not known."""
    wrong = False

    def plain(match: re.Match[str]) -> str:
        nonlocal wrong
        code = match[1]
        if code in ("\\", "n", "r"):
            return {"\\": "\\", "n": "\n", "r": "\r"}[code]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        wrong = True
        return ""

    text = ESCAPE.sub(plain, name)
    return None if wrong else text
