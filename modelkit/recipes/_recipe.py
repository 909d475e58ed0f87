"""A recipe: a TOML file that says which encoding each matrix gets. The shelf has llama-quantize's own.

    about = "what it is for"         one line
    base = "q4_k"                    the encoding of every matrix that no rule names
    file_type = 15                   general.file_type of a GGUF (optional), a u32
    same_as = "q4_k_m"               instead of all this, on the shelf only: another name of that recipe

    [[rules]]                        the first rule that fits a matrix decides
    kind = "attention_v"             output embedding attention_q attention_k attention_v attention_output
                                     ffn_up ffn_gate ffn_down; "output" is the embedding where they are one
    match = "ffn_.*_exps"            or: a regular expression, searched in the name as it is written
    to = "q6_k"

and to narrow it, any of

    layers = "more"                  the first and last eighth and every third between, as llama-quantize counts
    layers = "first 1/8"             or the first eighth; "first 4": the first four
    architecture = ["falcon"]        general.architecture is one of these
    architecture_not = ["falcon"]    or none of them
    grouped = 4                      at least 4 query heads for each key head
    experts = 8                      exactly 8 experts; experts_not = 8: any other number
    size = "70B"                     a model that llama.cpp calls so
    importance = true                importance weights are given
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.encodings import find
from modelkit.errors import BadRequest
from modelkit.recipes._facts import KINDS, Facts, Place
from modelkit.sources import explained
from modelkit.tensors import Encoding

SHELF = Path(__file__).parent
LONGEST_SHOWN = 60
LARGEST = 1 << 20  # bytes of a recipe file; the longest of the shelf has 2,000
LAYERS = re.compile(r"more|first (?:[1-9]\d{0,5}|1/[1-9]\d{0,2})")
FIELDS = {
    "kind": str, "match": str, "to": str, "layers": str, "architecture": list, "architecture_not": list,
    "grouped": int, "experts": int, "experts_not": int, "size": str, "importance": bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a recipe; empty and None conditions always hold."""

    to: Encoding
    kind: str = ""
    match: re.Pattern[str] | None = None
    layers: str = ""
    architecture: tuple[str, ...] = ()
    architecture_not: tuple[str, ...] = ()
    grouped: int = 0
    experts: int | None = None
    experts_not: int | None = None
    size: str = ""
    importance: bool | None = None

    def fits(self, place: Place, facts: Facts, *, importance: bool) -> bool:
        """Whether this rule decides for the matrix at `place`."""
        return (
            (not self.kind or self.kind == place.kind)
            and (self.match is None or self.match.search(place.name) is not None)
            and (not self.architecture or facts.architecture in self.architecture)
            and facts.architecture not in self.architecture_not
            and facts.grouped >= self.grouped
            and self.experts in (None, facts.experts)
            and (self.experts_not is None or facts.experts != self.experts_not)
            and self.size in ("", facts.size)
            and self.importance in (None, importance)
            and _among(self.layers, place.number, place.count)
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """`name` is what the user typed; `base` encodes what no rule names."""

    name: str
    about: str
    base: Encoding
    rules: tuple[Rule, ...] = ()
    file_type: int | None = None


def names() -> list[str]:
    """The recipes of the shelf."""
    return sorted(path.stem for path in SHELF.glob("*.toml"))


def from_shelf(name: str) -> Recipe:
    """A recipe of the shelf, under the name that was asked for."""
    table = _table((SHELF / f"{name}.toml").read_text("utf-8"), name)
    other = table.get("same_as")
    found = _table((SHELF / f"{other}.toml").read_text("utf-8"), name) if other else table
    return read(found, name)


def from_file(path: str) -> Recipe:
    """A recipe that the user wrote; raises CannotAccess, or BadRequest that names what is wrong with it."""
    with explained(path):
        if Path(path).stat().st_size > LARGEST:
            raise BadRequest(f"{path} is too large for a recipe", f"a recipe has at most {LARGEST:,} bytes")
        data = Path(path).read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is no recipe: not UTF-8", "write it as TOML") from None
    return read(_table(text, path), path)


def read(table: Mapping[str, Any], source: str) -> Recipe:
    """The meaning of a parsed recipe; raises BadRequest for what means nothing."""
    kinds = {"about": str, "base": str, "file_type": int, "rules": list}
    _check(table, kinds, source, required=("base",))
    rules = [_rule(rule, f"{source}: rule {number}") for number, rule in enumerate(table.get("rules", ()), 1)]
    base = _written(table["base"], source)
    number = table.get("file_type")
    if number is not None and not 0 <= number < 2**32:
        fix = "leave it out, or give llama.cpp's number of a type: 15 for q4_k_m"
        raise BadRequest(f"{source}: file_type = {_shown(number)}: GGUF holds 0 to 4,294,967,295 there", fix)
    return Recipe(source, table.get("about", ""), base, tuple(rules), number)


def _rule(table: object, source: str) -> Rule:
    if not isinstance(table, dict):
        raise BadRequest(f"{source}: a table expected", "write it as [[rules]]")
    _check(table, FIELDS, source, required=("to",))
    if ("kind" in table) == ("match" in table):
        raise BadRequest(f"{source}: needs either `kind` or `match`")
    if table.get("kind", KINDS[0]) not in KINDS:
        raise BadRequest(f"{source}: no kind is called '{table['kind']}'", f"known are: {', '.join(KINDS)}")
    if "layers" in table and not LAYERS.fullmatch(table["layers"]):
        raise BadRequest(f"{source}: layers = '{table['layers']}'", "write 'more', 'first 1/8' or 'first 4'")
    plain = {
        key: table[key]
        for key in ("kind", "layers", "grouped", "experts", "experts_not", "size", "importance")
        if key in table
    }
    return Rule(
        _written(table["to"], source),
        match=pattern(table["match"], source) if "match" in table else None,
        architecture=tuple(map(str, table.get("architecture", ()))),
        architecture_not=tuple(map(str, table.get("architecture_not", ()))),
        **plain,
    )


def pattern(text: str, source: str) -> re.Pattern[str]:
    """A regular expression that the user wrote; raises BadRequest."""
    try:
        return re.compile(text)
    except re.error as error:
        raise BadRequest(f"{source}: '{text}' is no regular expression: {error}") from None


def _written(name: str, source: str) -> Encoding:
    """An encoding that weights can be written in; raises BadRequest."""
    try:
        encoding = find(name)
    except BadRequest as error:
        raise BadRequest(f"{source}: {error.message}", error.fix) from None
    if getattr(encoding, "encode", encoding) is None or encoding.kind == "raw":
        raise BadRequest(f"{source}: {encoding.name} can be read, not written")
    return encoding


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{source} is no recipe: {error}", "write it as TOML") from None


def _check(table: Mapping[str, Any], kinds: Mapping[str, type], source: str, required: tuple[str, ...]) -> None:
    for key, value in table.items():
        if key not in kinds:
            raise BadRequest(f"{source}: '{key}' means nothing here", f"known are: {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            raise BadRequest(f"{source}: {key} = {_shown(value)}: a {kinds[key].__name__} expected")
    for key in required:
        if key not in table:
            raise BadRequest(f"{source}: '{key}' is missing")


def _shown(value: object) -> str:
    """A value as it may be printed: Python refuses to write numbers of thousands of digits, which TOML has in hex."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _among(layers: str, number: int, count: int) -> bool:
    """Whether the matrix that is number `number` of `count` belongs to the layers that a rule names."""
    if not layers:
        return True
    if layers == "more":
        eighth = count // 8
        return number < eighth or number >= 7 * count // 8 or (number - eighth) % 3 == 2
    _, _, share = layers.partition("first ")
    return number < (count // int(share[2:]) if share.startswith("1/") else int(share))
