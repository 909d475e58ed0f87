"""The words of a policy's lists of what is allowed: those that name nothing are refused, with what is near."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

from modelkit.architectures import ARCHITECTURES
from modelkit.encodings import ENCODINGS
from modelkit.encodings._kinds import RAW
from modelkit.errors import BadRequest
from modelkit.formats import FORMATS
from modelkit.layouts import LAYOUTS

CLASS = "forcausallm"  # how transformers' classes end; a model calls itself by its model_type


def refuse_unknown(kind: str, words: Iterable[str], path: str) -> None:
    """Raise BadRequest for the first word of `kind` (formats, encodings, dtypes, architectures) that names nothing."""
    for word in words:
        meant = _KINDS[kind](word)
        if meant is None:
            continue
        fix = f"did you mean {' or '.join(meant)}?" if meant else f"see modelkit list {_LISTED.get(kind, kind)}"
        raise BadRequest(f"{path}: policy.{kind}: nothing is called '{word}'", fix)


def _format(word: str) -> list[str] | None:
    """None for a word that is known, else those that are near."""
    return None if word in FORMATS else _near(word, FORMATS)


def _encoding(word: str) -> list[str] | None:
    known = {*ENCODINGS, *(raw.name for raw in RAW.values()), *LAYOUTS}
    name = word.lower().partition(":")[0]
    return None if name in known else _near(name, known)


def _architecture(word: str) -> list[str] | None:
    """A model may be of a family that is on no shelf: only another spelling of one that is there is known to be wrong.

    A misspelt word allows less, not more: every model is then a finding that names both.
    """
    known = {name for one in ARCHITECTURES.values() for names in one.called.values() for name in names}
    if word in known:
        return None
    same = sorted(name for name in known if _plain(name) == _plain(word))
    return same if same or not _plain(word) else None


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower()).removesuffix(CLASS)


def _near(word: str, known: Iterable[str]) -> list[str]:
    return get_close_matches(word.lower(), sorted(known), n=3, cutoff=0.5)


_KINDS: Mapping[str, Callable[[str], list[str] | None]] = {
    "formats": _format,
    "encodings": _encoding,
    "dtypes": _encoding,
    "architectures": _architecture,
}
_LISTED = {"dtypes": "encodings"}
