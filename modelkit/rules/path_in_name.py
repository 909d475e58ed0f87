"""A tensor name looks like a path.

`..` as a part, a leading slash or backslash, a drive letter, or a NUL.

Why: Tools that unpack every tensor into a file of its name write outside their folder.

Fix: Rename the tensor; ask who made the file.

    model.safetensors: the name '../../.ssh/authorized_keys' looks like a path
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

PATH = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)|\x00")


def check(subject: Subject) -> Iterator[Finding]:
    for tensor in subject.model.tensors:
        if PATH.search(tensor.name):
            file = subject.file_of(tensor.name)
            yield Finding(file, f"the name '{tensor.name}' looks like a path", "rename the tensor", tensor.name)


rule = Rule("A tensor name looks like a path", "warning", "names", model=check)
