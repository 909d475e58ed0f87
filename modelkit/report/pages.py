"""The pages of parts, for `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelkit.operations.catalogue import Part
from modelkit.report.text import escape


def lines(parts: Iterable[Part]) -> Iterator[str]:
    """Name and facts of each part, then its page."""
    for number, part in enumerate(parts):
        if number:
            yield ""
        facts = ", ".join(f"{name} {value}" for name, value in part.facts.items())
        yield f"{part.name} ({part.kind.removesuffix('s')}{f': {facts}' if facts else ''})"
        yield ""
        yield from map(escape, part.page.splitlines())
