"""Parameters of an encoding as words: `gptq:bits=4,group=128,symmetric=no`, read and written by one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from modelkit.errors import BadRequest

E = TypeVar("E")
MOST = 65_536  # no layout has wider groups, and a number in a name stays readable
ROW = "row"  # in words, of a group: all columns


@dataclass(frozen=True, slots=True)
class Parameter:
    """A word and the field behind it. `values`: what may be said and what it means; None = a whole number."""

    word: str
    field: str
    values: Mapping[str, Any] | None = None
    shown: bool = False  # in the name even when it is the default


SCALES: Mapping[str, str] = {"f16": "F16", "bf16": "BF16", "f32": "F32"}
SYMMETRIC: Mapping[str, str] = {"yes": "middle", "no": "integer"}
METHODS: Mapping[str, str] = {"rtn": "rtn", "mse": "mse"}
BITS = Parameter("bits", "bits", shown=True)
GROUP = Parameter("group", "group", shown=True)
METHOD = Parameter("method", "method", METHODS)


def named(name: str, encoding: Any, table: Sequence[Parameter]) -> str:
    """What the user types for this very encoding: parameters that always show, and those that are no default."""
    defaults = {field.name: field.default for field in fields(encoding)}
    words = []
    for one in table:
        value = getattr(encoding, one.field)
        if one.shown or value != defaults[one.field]:
            words.append(f"{one.word}={_word(one, value)}")
    return f"{name}:{','.join(words)}" if words else name


def _word(one: Parameter, value: Any) -> str:
    if one.values is None:
        return ROW if one is GROUP and value == 0 else str(value)
    return next(word for word, meant in one.values.items() if meant == value)


def configured(encoding: E, words: Mapping[str, str], table: Sequence[Parameter]) -> E:
    """The encoding with parameters as words. Raises BadRequest for a word or a value that it does not have."""
    known = {one.word: one for one in table}
    found: dict[str, Any] = {}
    name = getattr(encoding, "name", "").partition(":")[0]
    for word, value in words.items():
        if word not in known:
            raise BadRequest(f"{name} has no parameter '{word}'", f"it has: {', '.join(known)}")
        found[known[word].field] = _meant(known[word], value)
    return replace(encoding, **found)  # type: ignore[type-var]


def _meant(one: Parameter, value: str) -> Any:
    if one.values is not None:
        if value not in one.values:
            raise BadRequest(f"{one.word}={value}: one of {', '.join(one.values)} expected")
        return one.values[value]
    if one is GROUP and value == ROW:
        return 0
    if not (value.isascii() and value.isdecimal() and 0 < int(value[:9]) <= MOST):
        raise BadRequest(f"{one.word}={value[:20]}: a whole number from 1 to {MOST:,} expected")
    return int(value)
