"""The JSON of a safetensors header, one entry at a time: a million tensors must not become a million dictionaries.

Entries written the usual way are matched by one regular expression; any other goes through the JSON decoder,
one value at a time. Both accept exactly what JSON is: no NaN, no repeated key, nothing behind the closing brace.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

NUMBER = r"(?:0|[1-9][0-9]{0,18})"
# a repeat without a bound would keep gigabytes of places to go back to for one endless shape
USUAL = re.compile(
    r'[ \t\r\n]*"([^"\\\x00-\x1f]*)": ?'
    rf'\{{"dtype": ?"([A-Z0-9_]+)", ?"shape": ?\[((?:{NUMBER}(?:, ?{NUMBER}){{0,31}})?)\], ?'
    rf'"data_offsets": ?\[({NUMBER}), ?({NUMBER})\]\}}(?=[,}}])'
)
SPACE = re.compile(r"[ \t\r\n]*")
LONGEST_INTEGER = 20  # digits; 2^64 has as many
DEEPEST = 8  # objects and lists within each other


class Entry(NamedTuple):
    """One key of the header. `info` is what stands behind it; `usual` says that its form needs no more checks."""

    name: str
    info: Any
    usual: bool


class NotJson(ValueError):
    """Where (in characters) and why the header is no JSON."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason, at)
        self.reason = reason
        self.at = at


def entries(text: str) -> Iterator[Entry]:
    """The keys of the header's object in their order; raises NotJson. The text begins with a brace."""
    at = _skip(text, 1)
    if text[at : at + 1] == "}":
        return _end(text, at + 1)
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_whole)
    usual = USUAL.match
    while True:
        match = usual(text, at)
        if match is not None:
            name, dtype, shape, begin, end = match.groups()
            sizes = tuple(map(int, shape.split(","))) if shape else ()
            yield Entry(name, (dtype, sizes, int(begin), int(end)), True)  # noqa: FBT003
            at = match.end()
        else:
            name, info, at = _one(text, at, decoder)
            yield Entry(name, info, False)  # noqa: FBT003
        if text[at] == "}":
            return _end(text, at + 1)
        at += 1


def _one(text: str, at: int, decoder: json.JSONDecoder) -> tuple[str, Any, int]:
    """One key and its value; the end is at a comma or a brace."""
    at = _skip(text, at)
    if text[at : at + 1] != '"':
        raise NotJson("expecting a name in double quotes", at)
    try:
        name, at = decoder.raw_decode(text, at)
        info, at = decoder.raw_decode(text, _skip(text, _expected(text, _skip(text, at), ":")))
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.pos) from None
    except NotJson as error:
        raise NotJson(error.reason, at) from None
    except RecursionError:
        raise NotJson("nested too deeply", at) from None
    if _depth(info) > DEEPEST:
        raise NotJson("nested too deeply", at)
    at = _skip(text, at)
    _expected(text, at, ",}")
    return name, info, at


def _expected(text: str, at: int, signs: str) -> int:
    """The place behind one of `signs`."""
    if text[at : at + 1] not in tuple(signs):
        raise NotJson(f"expecting '{signs[0]}'", at)
    return at + 1


def _skip(text: str, at: int) -> int:
    """The next place that is no space."""
    match = SPACE.match(text, at)
    return match.end() if match else at


def _end(text: str, at: int) -> None:
    rest = _skip(text, at)
    if rest != len(text):
        raise NotJson("something follows the closing brace", rest)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise NotJson(f"key '{twice}' is there twice", 0)
    return table


def _no_constant(name: str) -> None:
    raise NotJson(f"{name} is not JSON", 0)


def _whole(digits: str) -> float:
    """A whole number. -0 is none: the reference reader takes it for a float, and refuses the file."""
    if len(digits) > LONGEST_INTEGER:
        raise NotJson(f"a number of {len(digits):,} digits", 0)
    return -0.0 if digits == "-0" else int(digits)


def _depth(value: Any) -> int:
    """Levels of nesting, found without recursion."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for one in level:
            inner += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        depth += any(isinstance(one, (dict, list)) for one in level)
        level = inner
    return depth
