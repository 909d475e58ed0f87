"""A metadata key that is not what the specification asks for.

Not UTF-8, empty, or longer than 65,535 bytes (errors). Other than lower case letters, digits, dots and
underscores: information.

Why: Engines refuse the file or do not find the key.

Fix: Write it again with a current converter.

    model.gguf: key at byte 24 is not UTF-8
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

USUAL = re.compile(r"[a-z0-9_.\-]+")


def check(subject: Subject) -> Iterator[Finding]:
    odd = [key for key in subject.model.metadata if key.isascii() and not USUAL.fullmatch(key) and key.isprintable()]
    for key in odd:
        yield Finding(subject.name, f"key '{key}' is not in lower snake case", severity="info")


rule = Rule("A metadata key that is not what the specification asks for", "error", "gguf", needs=("gguf",), model=check)
