"""What a walk over a pickle found, as faults of the file that holds it."""

from __future__ import annotations

import re

from modelkit.faults import Faults, Severity
from modelkit.formats._pickle_walk import Walk, walk

DO_NOT = "do not load it; ask for safetensors"
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
    severity: Severity = "warning",
) -> None:  # fmt: skip
    """What follows STOP is followed too: a second stream would run when the file is read twice."""
    followed = walk(rest)
    if followed.calls or (not followed.broken and followed.end):
        report(followed, file, member, start, faults)
    named = f"{member}: " if member else ""
    message = f"{named}{len(rest):,} bytes {after}"
    faults.add("trailing-bytes", file, message, "they may hide data", offset=start, severity=severity)


def is_program(followed: Walk) -> bool:
    """Whether bytes that nothing marks as a pickle are one that runs something, and no text that begins like one.

    A line of text may read as the name of a callable. A pickle also calls it, or is whole.
    """
    plausible = any(NAME.fullmatch(name) for name, _ in followed.calls)
    return plausible and (followed.ran or not followed.broken)
