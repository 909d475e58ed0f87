r"""A name or a metadata text has control characters.

Escape and other control codes, marks that turn the direction of text, separators of lines and paragraphs: in
tensor names, metadata keys and short metadata values.

Why: Printed raw they clear the terminal, hide a line or turn `gnp.exe` into `exe.png`. modelkit escapes them
everywhere.

Fix: Rename the tensor; ask who made the file.

    model.safetensors: the name 'w\\x1b[2J' has control characters
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._texts import CONTROL, texts

FIX = "rename it, and ask who made the file"


def check(subject: Subject) -> Iterator[Finding]:
    for tensor in subject.model.tensors:
        if not tensor.name.isprintable() or CONTROL.search(tensor.name):
            file = subject.file_of(tensor.name)
            yield Finding(file, f"the name '{tensor.name}' has control characters", FIX, tensor.name)
    for key, text in texts(subject):
        if CONTROL.search(key):
            yield Finding(subject.place, f"the key '{key}' has control characters", FIX)
        elif CONTROL.search(text.translate(LINES)):
            yield Finding(subject.place, f"the text of '{key}' has control characters", FIX)


LINES = dict.fromkeys((9, 10, 13))  # a text may have lines and tabs


rule = Rule("A name or a metadata text has control characters", "warning", "names", model=check)
