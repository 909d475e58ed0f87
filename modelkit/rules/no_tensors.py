"""The model holds no tensors.

A file or folder whose header lists none. A GGUF that holds only a vocabulary is information, as is a
safetensors file with metadata only.

Why: Nothing can be run or converted.

Fix: Name a file with weights.

    model.safetensors: holds no tensors
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.model.tensors and subject.kind != "npz" and not subject.broken and not subject.missing:
        yield Finding(subject.place, "holds no tensors")


rule = Rule("The model holds no tensors", "info", "safetensors", model=check)
