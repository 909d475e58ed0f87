"""Bytes after the last tensor.

The file goes on where the header says that it ends. An error for safetensors, a warning for GGUF, whose readers
accept it. In an .npz the bytes of each array are held against its shape, of a compressed one those that the archive
says it has; whether it says so rightly is seen when it is unpacked, from level sample on.

Why: A second file may ride along (see `polyglot-file`).

Fix: Save the file again.

    model.safetensors: 12 bytes after the last tensor
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for one in values.tensors:
        if one.beyond:
            name = one.tensor.name
            yield Finding(subject.name, f"'{name}' {one.beyond}: it may hide data", "save it again", tensor=name)


rule = Rule("Bytes after the last tensor", "error", "safetensors", values=check)
