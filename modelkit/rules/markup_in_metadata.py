"""The metadata holds HTML or script.

`<script`, `<img`, `onerror=`, `javascript:` in a metadata key or value, or in a tensor name.

Why: A page that shows the metadata without escaping it runs the script.

Fix: Do not show it unescaped; ask who made the file.

    model.safetensors: 'description' holds markup: <script
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._texts import texts

MARKUP = re.compile(r"<script|<img|<iframe|<svg|onerror\s*=|onload\s*=|javascript:", re.IGNORECASE)


def check(subject: Subject) -> Iterator[Finding]:
    for key, text in texts(subject):
        match = MARKUP.search(key) or (MARKUP.search(text) if "chat_template" not in key else None)
        if match is not None:
            yield Finding(subject.place, f"'{key}' holds markup: {match[0]}", "do not show it unescaped")
    for tensor in subject.model.tensors:
        match = MARKUP.search(tensor.name) if "<" in tensor.name or ":" in tensor.name or "=" in tensor.name else None
        if match is not None:
            file = subject.file_of(tensor.name)
            yield Finding(file, f"a tensor name holds markup: {match[0]}", "rename the tensor", tensor.name)


rule = Rule("The metadata holds HTML or script", "warning", "names", model=check)
