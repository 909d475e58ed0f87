"""Chat templates: where a model keeps them, and whether one reaches beyond the conversation.

Only what stands within `{{ }}` and `{% %}` is code. Double underscores and `attr` count anywhere in it, in texts
too, because a text can be an attribute's name; names such as `os` count only as names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from modelkit.faults import Faults
from modelkit.formats._gguf_values import STRING, Value
from modelkit.formats._side_files import read_whole
from modelkit.rules._contract import Subject
from modelkit.rules._texts import object_of

CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{\{.*\Z|\{%.*\Z", re.DOTALL)
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
ANYWHERE = re.compile(
    r"__[a-zA-Z]+__|__(?:class|mro|subclasses|globals|builtins|import|init|base|dict|getattribute)"
    r"|\|\s*attr\s*\(|\\x5f|\\u005f|\bpopen\b|\bmro\s*\("
)
NAMES = re.compile(
    r"\b(?:cycler|lipsum|joiner)\s*[.\[]|\b(?:os|sys|subprocess|builtins)\s*\.|\b(?:eval|exec|getattr|setattr|open|import)\s*\("
)
JINJA = ("chat_template.jinja", "chat_template.json")
LONGEST = 4 << 20


def templates(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """(file, key, template) of every chat template that belongs to the model."""
    for key, value in subject.model.metadata.items():
        if "chat_template" in key and isinstance(value, Value) and value.kind == STRING:
            yield subject.name, key, str(value.value)[:LONGEST]
        elif "chat_template" in key and isinstance(value, str):
            yield subject.place, key, value[:LONGEST]
    if subject.format.dialect != "huggingface" or (subject.name and not subject.opener.holds("config.json")):
        return
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        yield from (
            (name, "chat_template", text) for text in _strings(object_of(subject.opener, name).get("chat_template"))
        )
    if subject.opener.holds("chat_template.jinja"):
        data = read_whole(subject.opener, "chat_template.jinja", Faults(strict=False)) or b""
        yield "chat_template.jinja", "the template", data[:LONGEST].decode("utf-8", "replace")


def reaches(template: str) -> str:
    """What it reaches for; "" where it stays within the conversation."""
    for match in CODE.finditer(template):
        code = match[0]
        found = ANYWHERE.search(code) or NAMES.search(QUOTED.sub("''", code))
        if found is not None:
            return found[0].strip()
    return ""


def _strings(value: Any) -> Iterator[str]:
    """One template, or a list of named ones."""
    if isinstance(value, str):
        yield value[:LONGEST]
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, dict) and isinstance(one.get("template"), str):
                yield one["template"][:LONGEST]
