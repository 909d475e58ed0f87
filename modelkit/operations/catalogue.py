"""What is on the shelves, by kind, and the page of each part."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from modelkit.errors import BadRequest

KINDS = ("formats", "encodings", "rules", "architectures", "recipes")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a shelf: what the user types, a line about it, and its page."""

    kind: str
    name: str
    title: str
    facts: Mapping[str, str]
    page: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parts(kind: str) -> list[Part]:
    """Everything of one kind, sorted by name; without pages, which need every file."""
    return _READ[kind]()


def explain(word: str) -> list[Part]:
    """The pages of everything that has this name, as it is typed after --to; raises BadRequest with what comes near."""
    found, names = [], set[str]()
    name = word.lower().removeprefix("pure:").partition(":")[0]
    for kind in KINDS:
        for part in parts(kind):
            names.add(part.name)
            if part.name in (name, name.replace("-", "_"), name.replace("_", "-")):
                found.append(part)
    if found:
        return found
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(names), n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(close)}?" if close else "see modelkit list rules"
    raise BadRequest(f"nothing is called '{word}'", fix)


def _rules() -> list[Part]:
    from modelkit.rules import RULES, word
    from modelkit.rules._contract import FAMILIES

    found = []
    for name, rule in RULES.items():
        facts = {"severity": rule.severity, "level": rule.level, "family": FAMILIES[rule.family]}
        found.append(Part("rules", word(name), rule.title, facts, RULES.documentation(name)))
    return found


def _formats() -> list[Part]:
    from modelkit.formats import FORMATS

    found = []
    for name, format in FORMATS.items():
        facts = {"endings": " ".join(format.suffixes), "writes": "yes" if format.layout else "no"}
        found.append(Part("formats", name, format.title, facts, FORMATS.documentation(name)))
    return found


def _encodings() -> list[Part]:
    from modelkit.encodings import ENCODINGS

    found = []
    for name, encoding in ENCODINGS.items():
        page = ENCODINGS.documentation(name)
        writes = "yes" if getattr(encoding, "encode", encoding) is not None else "no"
        found.append(Part("encodings", name, _first(page), {"kind": encoding.kind, "writes": writes}, page))
    return found


def _architectures() -> list[Part]:
    from modelkit.architectures import ARCHITECTURES

    found = []
    for name, architecture in ARCHITECTURES.items():
        called = ", ".join(sorted({word for words in architecture.called.values() for word in words}))
        page = ARCHITECTURES.documentation(name)
        found.append(Part("architectures", name, _first(page), {"called": called}, page))
    return found


def _recipes() -> list[Part]:
    folder = Path(str(import_module("modelkit.recipes").__file__)).parent
    found = []
    for path in sorted(folder.glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        recipe = tomllib.loads(text)
        title = str(recipe.get("about") or f"the same as {recipe.get('same_as', path.stem)}")
        found.append(Part("recipes", path.stem, title, {}, text))
    return found


def _first(page: str) -> str:
    """The first sentence of a page."""
    return page.partition("\n\n")[0].replace("\n", " ")


_READ: Mapping[str, Callable[[], list[Part]]] = {
    "formats": _formats,
    "encodings": _encodings,
    "rules": _rules,
    "architectures": _architectures,
    "recipes": _recipes,
}
