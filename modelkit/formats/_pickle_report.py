"""What a walk over a pickle found, as faults of the file that holds it."""

from __future__ import annotations

import re

from modelkit.faults import Faults, Severity
from modelkit.formats._pickle_walk import MOST_STEPS, Walk, walk

DO_NOT = "do not load it; ask for safetensors"
MOST_STREAMS = 16  # one after the other in what follows
NAME = re.compile(r"[^\W\d][\w.]*|extension \d+ of copyreg|a computed (?:name|callable)")


def report(walk: Walk, file: str, member: str, start: int, faults: Faults) -> None:
    """Say what a walk found: callables that are not harmless, a stream that breaks. `start`: its place."""
    named = f"{member} " if member else ""
    for name, at in walk.calls:
        faults.add("pickle-code", file, f"{named}calls {name} at byte {at:,}", DO_NOT, offset=start + at)
    if walk.exhausted:
        message = f"{named}was followed for {walk.steps - 1:,} instructions, and no further"
        faults.add("not-fully-checked", file, message, DO_NOT, offset=start + walk.at)
    elif walk.broken:
        message = f"{named}breaks off at byte {walk.at:,}: {walk.broken}"
        faults.add("broken-pickle", file, message, DO_NOT, offset=start + walk.at)


def report_rest(
    rest: bytes, file: str, member: str, start: int, faults: Faults, after: str = "follow the pickle",
    severity: Severity = "warning", size: int = 0,
) -> None:  # fmt: skip
    """What follows STOP is followed too, stream by stream: a second one would run when the file is read twice.

    `size`: bytes that follow, where `rest` is only the first of them.
    """
    named, steps, size = f"{member}: " if member else "", MOST_STEPS, size or len(rest)
    at = len(rest) - len(rest.lstrip(b"\0"))
    for _ in range(MOST_STREAMS):
        followed = walk(rest[at:], steps)
        marked = rest[at : at + 1] == b"\x80"
        if is_program(followed) or (marked and followed.calls) or (not followed.broken and followed.end):
            report(followed, file, member, start + at, faults)
        at, steps = at + followed.end, steps - followed.steps
        if not followed.end or at >= len(rest) or steps <= 0:
            break
    if size > len(rest) or (followed.end and at < len(rest)):
        message = f"{named}{size:,} bytes {after}: only the first {at or len(rest):,} were looked at"
        faults.add("not-fully-checked", file, message, DO_NOT, offset=start + at, severity="warning")
    faults.add(
        "trailing-bytes", file, f"{named}{size:,} bytes {after}", "they may hide data", offset=start, severity=severity
    )


def is_program(followed: Walk) -> bool:
    """Whether bytes that nothing marks as a pickle are one that runs something, and no text that begins like one.

    A line of text may read as the name of a callable. A pickle also calls it, or is whole.
    """
    plausible = any(NAME.fullmatch(name) for name, _ in followed.calls)
    return plausible and (followed.ran or not followed.broken)
