"""The file is also readable as something else.

A file that ends in a zip directory and does not begin as an archive, or that begins as a pickle and can be followed
as one to a callable, or in which a pickle that calls something follows the last tensor. An error where code is
found: what the pickles of the archive call is looked up too.

Why: Two programs see two different things in one file: one of them may run it.

Fix: Do not trust it; ask the source.

    model.safetensors: is also readable as a zip archive of 2 members
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.formats._impostors import is_zip
from modelkit.formats._pickle_report import is_program
from modelkit.formats._pickle_walk import walk
from modelkit.formats._zip_directory import directory
from modelkit.formats._zip_programs import programs
from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.sources import Source

LOOKED = 65_536  # bytes followed as a pickle
FIX = "do not trust it; ask the source"


def check(subject: Subject) -> Iterator[Finding]:
    ends = dict.fromkeys(subject.files, 0)
    for span in subject.model.spans.values():
        ends[span.file] = max(ends.get(span.file, 0), span.end)
    for file in subject.files:
        source = subject.opener.open(file)
        start = source.read(0, min(source.size, LOOKED))
        if is_zip(start):
            continue  # it is an archive, and judged as one
        yield from _archive(source)
        if subject.kind == "pytorch":
            continue  # it is a pickle, and followed to its end
        if start[:1] == b"\x80" and start[1:2] <= b"\x05" and walk(start).calls:
            yield Finding(file, "is also readable as a pickle that calls something", FIX)
        if 0 < ends[file] < source.size:
            yield from _rest(source, ends[file])


def _archive(source: Source) -> Iterator[Finding]:
    members = directory(source)
    if members:
        message = f"is also readable as a zip archive of {len(members):,} members"
        found = next(programs(source), None)
        if found is None:
            yield Finding(source.name, message, FIX)
        else:
            yield Finding(source.name, f"{message}: '{found[0]}' calls {found[1]}", FIX, severity="error")


def _rest(source: Source, end: int) -> Iterator[Finding]:
    """A pickle behind the last tensor, and behind the zeros that fill up a GGUF."""
    rest = source.read(end, min(source.size - end, LOOKED))
    data = rest.lstrip(b"\0")
    followed = walk(data)
    if is_program(followed):
        message = f"a pickle that calls {followed.calls[0][0]} follows the last tensor"
        yield Finding(source.name, message, FIX, offset=end + len(rest) - len(data), severity="error")


rule = Rule("The file is also readable as something else", "warning", "identity", model=check)
