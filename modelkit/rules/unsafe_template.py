"""A chat template reaches into Python.

A template that touches `__class__`, `__globals__`, `__subclasses__`, `cycler.`, `lipsum.`, `os.`, `popen`, `eval`,
a private name such as `self._TemplateReference__context`, or uses `|attr(`: within `{{ }}` and `{% %}` of the
templates in GGUF keys, tokenizer_config.json, chat_template.json, chat_template.jinja and
additional_chat_templates/*.jinja. Texts that are put together by `+`, `~` or `set` count as the whole that they
become. Ordinary Jinja is silent.

A list of forbidden names cannot see a name that is computed: by `|join`, `|replace`, `|format`, a slice, a loop, or
from what the conversation holds. That this rule is silent does not make a template safe without a sandbox.

Why: A program that renders it without a sandbox runs whatever it says. modelkit renders templates in a sandbox
of its own.

Fix: Do not load it; ask who made the file.

    model.gguf: tokenizer.chat_template reaches into Python: __globals__
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._templates import reaches, templates


def check(subject: Subject) -> Iterator[Finding]:
    for file, key, text in templates(subject):
        found = reaches(text)
        if found:
            yield Finding(file, f"{key} reaches into Python: {found}", "do not load it; ask who made the file")


rule = Rule("A chat template reaches into Python", "error", "security", model=check)
