"""Which tokens begin, end and pad a text: told by up to five files of a folder, the nearest to the tokenizer first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelkit.errors import BrokenFile
from modelkit.tokenizers._json_access import listing, mapping, optional_mapping, steps, text_or_none, whole_number
from modelkit.tokenizers._vocabulary import FETCH_AGAIN

ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
"""Ours | the word in the files' keys: bos_token, bos_token_id."""
BY_TEXT = ("tokenizer_config.json", "special_tokens_map.json")
BY_ID = ("config.json", "generation_config.json")

Documents = Mapping[str, dict[str, object]]


def special_ids(documents: Documents, ids: Mapping[str, int], count: int) -> dict[str, int | None]:
    """The id for each role; a text or an id that is not in the vocabulary counts as not given."""
    found: dict[str, int | None] = {}
    for role, word in ROLES.items():
        found[role] = _first([*_by_text(documents, word, ids), *_by_id(documents, word, count)])
    return found


def _by_text(documents: Documents, word: str, ids: Mapping[str, int]) -> list[int | None]:
    key = f"{word}_token"
    texts = [_content(documents.get(name, {}).get(key), f"{name}: {key}") for name in BY_TEXT]
    return [ids.get(text) for text in texts if text is not None]


def _by_id(documents: Documents, word: str, count: int) -> list[int | None]:
    key = f"{word}_token_id"
    found = [_identity(documents.get(name, {}).get(key), f"{name}: {key}") for name in BY_ID]
    return [identity for identity in found if identity is not None and 0 <= identity < count]


def stops(documents: Documents, eos: int | None, count: int) -> tuple[int, ...]:
    """The ids besides `eos` that the configurations call an end: one id or a list of them."""
    found: list[int] = []
    for name in BY_ID:
        value = documents.get(name, {}).get("eos_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        found += [whole_number(identity, f"{name}: eos_token_id") for identity in listed]
    return tuple(dict.fromkeys(identity for identity in found if 0 <= identity < count and identity != eos))


def template(document: Mapping[str, object]) -> tuple[list[int], list[int]] | None:
    """The ids that a tokenizer.json puts before and after a text; None when it has no template."""
    for step in steps(document.get("post_processor"), "post_processor"):
        if step.get("type") == "TemplateProcessing":
            return _around(step)
    return None


def added_tokens(value: object, where: str) -> list[tuple[int, str, bool]]:
    """(id, text, special) of tokens added after training; a list in tokenizer.json, by id in tokenizer_config.json."""
    if isinstance(value, dict):
        items = [(_decimal(key, where), mapping(item, where)) for key, item in value.items()]
    else:
        items = [(whole_number(entry.get("id"), f"{where} id"), entry) for entry in _mappings(value, where)]
    found = []
    for identity, entry in items:
        text = _content(entry, where)
        if text is not None:
            found.append((identity, text, entry.get("special") is True))
    return found


def _around(step: Mapping[str, object]) -> tuple[list[int], list[int]] | None:
    marks = optional_mapping(step.get("special_tokens"), "post_processor special_tokens")
    before: list[int] = []
    after: list[int] = []
    side = before
    for item in _mappings(step.get("single"), "post_processor single"):
        if "Sequence" in item:
            side = after
            continue
        name = mapping(item.get("SpecialToken"), "post_processor SpecialToken").get("id")
        mark = optional_mapping(marks.get(str(name)), "post_processor special_tokens")
        side += [whole_number(identity, "post_processor ids") for identity in listing(mark.get("ids"), "ids")]
    return before, after


def _mappings(value: object, where: str) -> list[dict[str, object]]:
    return [mapping(item, where) for item in listing(value, where)]


def _content(value: object, where: str) -> str | None:
    """A token is written as its text or as {"content": text, ...}."""
    return text_or_none(value.get("content") if isinstance(value, dict) else value, where)


def _identity(value: object, where: str) -> int | None:
    """Configurations give one id or, for several ends, a list; the first is the main one."""
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else whole_number(value, where)


def _decimal(key: str, where: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise BrokenFile(f"{where}: {key[:40]!r} is not a token's id", FETCH_AGAIN)
    return int(key)


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)
