"""Which modules a config means: names as they are, or patterns behind `re:` that match from a name's beginning.

A config is hostile until proven otherwise, and a pattern can make an engine of regular expressions try for years:
only patterns that cannot are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

LONGEST_PATTERN = 256
LONGEST_NAME = 512
MOST_PATTERNS = 256
MOST_STARS = 2
"""Repeats without an end in one pattern: time grows with the name's length to this power."""

STARS = re.compile(r"[*+]|\{\d*,\d*\}")
COUNTS = re.compile(r"(?:\\d|\[0-9\])[*+](?=\\\.|[a-z_]|$)")
"""A number before something else: there is one way to read it."""

HARD = re.compile(r"\)\s*[*+{]|\\[1-9]|\(\?[^:]|\{\d{3,}")
"""What is not tried: a repeated group, a reference back, looking ahead or behind, counts of a hundred and more."""


@dataclass(frozen=True, slots=True)
class Names:
    """`plain` names (or classes, such as Linear), `patterns`, and the patterns that are `refused`."""

    plain: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    refused: tuple[str, ...]

    def match(self, module: str) -> bool:
        """Whether a module's name is one of these, or fits a pattern."""
        if module in self.plain:
            return True
        return len(module) <= LONGEST_NAME and any(pattern.match(module) for pattern in self.patterns)


def names(words: object) -> Names:
    """What a list in a config means; what is no string is left out."""
    found = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    patterns = [word.removeprefix("re:") for word in found if word.startswith("re:")]
    tried = [compiled for text in patterns[:MOST_PATTERNS] if (compiled := _compiled(text)) is not None]
    refused = [text for text in patterns if _compiled(text) is None]
    plain = frozenset(word for word in found if not word.startswith("re:"))
    return Names(plain, tuple(tried), (*refused, *patterns[MOST_PATTERNS:]))


def exactly(words: Iterable[str]) -> list[str]:
    """Module names as a config lists them: sorted by layer number."""
    return sorted(words, key=lambda word: [int(piece) if piece.isdecimal() else piece for piece in _pieces(word)])


def _pieces(word: str) -> list[str]:
    """Text and numbers in turn, so that pieces in the same place compare."""
    return re.split(r"(\d{1,9})", word)


@cache
def _compiled(text: str) -> re.Pattern[str] | None:
    stars = len(STARS.findall(re.sub(r"\\.|\[[^\]]*\]", "x", COUNTS.sub("", text))))
    if len(text) > LONGEST_PATTERN or stars > MOST_STARS or HARD.search(text):
        return None
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
