"""JSON from files that nobody vouches for: parsed within bounds, every value checked where it is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping

from modelkit.errors import BrokenFile
from modelkit.tokenizers._vocabulary import FETCH_AGAIN

LARGEST_DOCUMENT = 128 * 2**20  # the largest tokenizer.json in use has some 35 MB
DEEPEST = 8  # sequences within sequences of steps; real files have two levels
POINTER = b"version https://git-lfs"  # how the text begins that stands in for a file not fetched


def decode(name: str, data: bytes) -> str:
    """A text file as text."""
    check_fetched(name, data)
    if len(data) > LARGEST_DOCUMENT:
        raise BrokenFile(f"{name}: {len(data):,} bytes are too many for a tokenizer's file", FETCH_AGAIN)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenFile(f"{name}: byte {error.start:,} is not UTF-8", FETCH_AGAIN, offset=error.start) from None


def check_fetched(name: str, data: bytes) -> None:
    if data.startswith(POINTER):
        raise BrokenFile(f"{name} is a git-lfs pointer, not the file itself", "Run: git lfs pull")


def parse(name: str, text: str) -> dict[str, object]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BrokenFile(f"{name} is not JSON{where}", FETCH_AGAIN) from None
    return mapping(found, name)


def mapping(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _unexpected(where, "an object", value)
    return value


def optional_mapping(value: object, where: str) -> dict[str, object]:
    """An object; nothing at all counts as an empty one."""
    return {} if value is None else mapping(value, where)


def listing(value: object, where: str) -> list[object]:
    """A list; nothing at all counts as an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _unexpected(where, "a list", value)
    return value


def text_or_none(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _unexpected(where, "text", value)
    return value


def text_of(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _unexpected(where, "text", value)
    return value


def flag_or_none(value: object, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise _unexpected(where, "true or false", value)
    return value


def whole_number(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unexpected(where, "a whole number", value)
    return value


def steps(value: object, where: str, depth: int = 0) -> list[dict[str, object]]:
    """The steps of a normalizer, pre-tokenizer or post-processor; sequences within sequences are unfolded."""
    if value is None:
        return []
    step = mapping(value, where)
    if step.get("type") != "Sequence":
        return [step]
    if depth == DEEPEST:
        raise BrokenFile(f"{where} is nested deeper than {DEEPEST} levels", FETCH_AGAIN)
    inner = next((step[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if key in step), None)
    return [found for item in listing(inner, where) for found in steps(item, where, depth + 1)]


def merge_rules(value: object, where: str) -> list[tuple[str, str]]:
    """Merge rules as pairs: files hold "left right" or, since 2024, ["left", "right"]."""
    rules: list[tuple[str, str]] = []
    for item in listing(value, where):
        pair = item.split(" ") if isinstance(item, str) else item
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise BrokenFile(f"{where}: rule {len(rules):,} is not a pair of tokens", FETCH_AGAIN)
        rules.append((pair[0], pair[1]))
    return rules


def by_name(files: Mapping[str, bytes], names: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """Those of the named JSON files that are there, parsed."""
    return {name: parse(name, decode(name, files[name])) for name in names if name in files}


def _unexpected(where: str, wanted: str, value: object) -> BrokenFile:
    return BrokenFile(f"{where} should be {wanted} but is {_NAMES.get(type(value), 'a number')}", FETCH_AGAIN)


_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "missing"}
