"""A policy file, read and checked: a word that it does not know is refused, not passed over."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from fnmatch import filter as filter_names
from pathlib import Path
from typing import Any

from modelkit.errors import BadRequest
from modelkit.operations.policy_words import refuse_unknown
from modelkit.operations.sizes import parse_size
from modelkit.operations.validate_report import SEVERITIES
from modelkit.rules import RULES, word
from modelkit.rules._contract import LEVELS
from modelkit.rules._policy import Ignore, Pin, Policy
from modelkit.sources import explained

EXAMPLE = "mend it there; docs/how-to/ci.md has an example, and modelkit policy init MODEL writes one"
PINS = "let modelkit policy init MODEL write the pins"
REQUIRED = ("checksum", "config", "license", "tokenizer")
TABLES = {
    "validate": ("level", "fail-on", "baseline"),
    "rules": None,
    "policy": (
        "formats", "encodings", "dtypes", "architectures", "forbid-pickle", "max-file", "max-shard", "max-model",
        "require",
    ),
    "ignore": None,
    "pins": None,
}  # fmt: skip


def load(path: str) -> Policy:
    """Read and check a policy; raises BadRequest for a word that it does not know."""
    with explained(Path(path)):
        data = Path(path).read_bytes()
    try:
        found = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadRequest(f"{path}: is no TOML: {error}", EXAMPLE) from None
    if os.path.basename(path) == "pyproject.toml":
        tools = _table(found, "tool", path)
        found = dict(_table(tools, "modelkit", path))
    return parse(found, path)


def parse(found: Mapping[str, Any], path: str) -> Policy:
    """The policy behind the tables of a file."""
    _known(found, tuple(TABLES), path, "table")
    general, rules = _table(found, "validate", path), _table(found, "rules", path)
    allowed = _table(found, "policy", path)
    words = {word(name) for name in RULES}
    for name, severity in rules.items():
        if name not in words:
            raise BadRequest(f"{path}: no rule is called '{name}'", "see modelkit list rules")
        _one_of(severity, ("off", *SEVERITIES), f"{path}: rules.{name}")
    level, fail_on, baseline = general.get("level"), general.get("fail-on"), general.get("baseline")
    _one_of(level, (None, *LEVELS), f"{path}: validate.level")
    _one_of(fail_on, (None, *SEVERITIES), f"{path}: validate.fail-on")
    for name in _words(allowed, "require", path):
        _one_of(name, REQUIRED, f"{path}: policy.require")
    forbid_pickle = allowed.get("forbid-pickle", False)
    if not isinstance(forbid_pickle, bool):  # "true" in quotes must not switch it off
        raise BadRequest(f"{path}: policy.forbid-pickle is '{forbid_pickle}'", "write true or false, without quotes")
    if baseline is not None and not isinstance(baseline, str):
        raise BadRequest(
            f"{path}: validate.baseline must be the name of a file", 'write baseline = "modelkit.baseline.json"'
        )
    return Policy(
        path=path,
        level=level,
        fail_on=fail_on,
        baseline=os.path.join(os.path.dirname(path), baseline) if baseline else None,
        severities=dict(rules),
        formats=_names(allowed, "formats", path),
        encodings=tuple(one.lower() for one in _names(allowed, "encodings", path) or _names(allowed, "dtypes", path)),
        architectures=_names(allowed, "architectures", path),
        forbid_pickle=forbid_pickle,
        max_file=_size(allowed, "max-file" if "max-file" in allowed else "max-shard", path),
        max_model=_size(allowed, "max-model", path),
        require=_words(allowed, "require", path),
        ignores=tuple(_ignore(one, words, path) for one in _list(found, "ignore", path)),
        pins={name: _pin(one, f"{path}: pins.{name}") for name, one in _table(found, "pins", path).items()},
    )


def _table(found: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    table = found.get(name, {})
    if not isinstance(table, dict):
        raise BadRequest(f"{path}: [{name}] must be a table", EXAMPLE)
    known = TABLES.get(name)
    if known is not None:
        _known(table, known, path, f"key of [{name}]")
    return table


def _list(found: Mapping[str, Any], name: str, path: str) -> list[Any]:
    items = found.get(name, [])
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise BadRequest(f"{path}: [[{name}]] must be a list of tables", EXAMPLE)
    return items


def _known(table: Mapping[str, Any], words: tuple[str, ...], path: str, what: str) -> None:
    for name in table:
        if name not in words:
            raise BadRequest(f"{path}: '{name}' is no {what}", f"known are: {', '.join(words)}")


def _one_of(value: object, words: tuple[object, ...], what: str) -> None:
    if value not in words:
        known = ", ".join(str(one) for one in words if one is not None)
        raise BadRequest(f"{what} is '{value}'", f"known are: {known}")


def _words(table: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    found = table.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise BadRequest(f"{path}: {name} must be a list of words", f'write {name} = ["WORD", "WORD"]')
    return tuple(found)


def _names(table: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    """Words that name what is on a shelf."""
    found = _words(table, name, path)
    refuse_unknown(name, found, path)
    return found


def _size(table: Mapping[str, Any], name: str, path: str) -> int | None:
    if name not in table:
        return None
    try:
        return parse_size(str(table[name]))
    except BadRequest as error:
        raise BadRequest(f"{path}: policy.{name}: {error.message}", error.fix) from None


def _ignore(found: Mapping[str, Any], words: set[str], path: str) -> Ignore:
    _known(found, ("rule", "path", "tensor", "reason", "expires"), path, "key of [[ignore]]")
    if not found.get("reason") or not isinstance(found.get("reason"), str):
        raise BadRequest(f"{path}: an [[ignore]] needs a reason", 'write reason = "why this is accepted"')
    expires = found.get("expires")
    expires = expires.date() if isinstance(expires, datetime) else expires
    if expires is not None and not isinstance(expires, date):
        raise BadRequest(f"{path}: expires must be a day", "write expires = 2027-01-01")
    rule, where, tensor = found.get("rule"), found.get("path", "*"), found.get("tensor", "*")
    if not isinstance(rule, str) or not isinstance(where, str) or not isinstance(tensor, str):
        raise BadRequest(f"{path}: an [[ignore]] needs a rule", 'write rule = "unknown-tensor"')
    if not filter_names(words, rule):
        raise BadRequest(f"{path}: an [[ignore]] is for '{rule}', and no rule is called so", "see modelkit list rules")
    return Ignore(rule, where, found["reason"], tensor, expires)


def _pin(found: object, what: str) -> Pin:
    if not isinstance(found, dict) or not isinstance(found.get("tensors", {}), dict):
        raise BadRequest(f"{what} must be a table", PINS)
    size, digest = found.get("size"), found.get("sha256", "")
    if size is not None and type(size) is not int:
        raise BadRequest(f"{what}: size must be a whole number", PINS)
    return Pin(str(digest).lower(), size, {str(name): str(value) for name, value in found.get("tensors", {}).items()})
