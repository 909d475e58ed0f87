"""Chat templates: where a model keeps them, and whether one reaches beyond the conversation.

Only what stands within `{{ }}` and `{% %}` is code. Double underscores and `attr` count anywhere in it, in texts
too, because a text can be an attribute's name; names such as `os` count only as names. A text that is put together
from pieces counts as the whole that it becomes, as far as `_template_texts.py` can fold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.formats._gguf_values import STRING, Value
from modelkit.formats._side_files import read_whole
from modelkit.rules._contract import Subject
from modelkit.rules._template_texts import texts
from modelkit.rules._texts import object_of
from modelkit.sources import Disk

CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{\{.*\Z|\{%.*\Z", re.DOTALL)
TEXT = r"'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z)"  # to the end where it is not closed
START = re.compile(r"\{[{%]")
STOP = re.compile(rf"{TEXT}|(?P<stop>\}}\}}|%\}})|[^'\"}}%]++|.", re.DOTALL)
MOST_OPEN = 2  # pieces of code that are never closed: no template has one, and each is read to the end
QUOTED = re.compile(TEXT, re.DOTALL)
ANYWHERE = re.compile(
    r"__[a-zA-Z]+__|__(?:class|mro|subclasses|globals|builtins|import|init|base|dict|getattribute)"
    r"|\b_[A-Z][A-Za-z0-9]*__[a-z]\w*|\|\s*attr\s*\(|\\x5f|\\u005f|\bpopen\b|\bmro\s*\("
)
NAMES = re.compile(
    r"\b(?:self|loop|namespace|caller)\s*\.\s*_\w*|\b(?:cycler|lipsum|joiner)\s*[.\[]|\b(?:os|sys|subprocess|builtins)\s*\.|\b(?:eval|exec|getattr|setattr|open|import)\s*\("
)
JINJA = "chat_template.jinja"
ADDITIONAL = "additional_chat_templates"
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
    for name in _files(subject):
        data = read_whole(subject.opener, name, Faults(strict=False))
        yield name, "the template", (data or b"")[:LONGEST].decode("utf-8", "replace")
        if data is None or len(data) > LONGEST:
            raise Unsupported(
                f"{name}: too long for a template: its first {LONGEST:,} bytes at the most were looked at"
            )


def _files(subject: Subject) -> Iterator[str]:
    """Templates in files of their own: the one, and those that have names."""
    if subject.opener.holds(JINJA):
        yield JINJA
    if isinstance(subject.opener, Disk):
        yield from (name for name in subject.opener.names_in(ADDITIONAL) if name.endswith(".jinja"))


def reaches(template: str) -> str:
    """What it reaches for; "" where it stays within the conversation."""
    codes = list(dict.fromkeys([*(match[0] for match in CODE.finditer(template)), *_whole(template)]))
    for code in codes:
        found = ANYWHERE.search(code) or NAMES.search(QUOTED.sub("''", code))
        if found is not None:
            return found[0].strip()
    return next((found[0] for text in texts(codes) if (found := ANYWHERE.search(text)) is not None), "")


def _whole(template: str) -> Iterator[str]:
    """The code once more, where a text in it holds what would end it."""
    at = left = 0
    while left < MOST_OPEN and (start := START.search(template, at)) is not None:
        end = next((match.end() for match in STOP.finditer(template, start.end()) if match["stop"]), 0)
        at, left = end or start.end(), left + (not end)
        yield template[start.start() : end] if end else ""
    if left == MOST_OPEN:
        yield template[at:]


def _strings(value: Any) -> Iterator[str]:
    """One template, or a list of named ones."""
    if isinstance(value, str):
        yield value[:LONGEST]
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, dict) and isinstance(one.get("template"), str):
                yield one["template"][:LONGEST]
