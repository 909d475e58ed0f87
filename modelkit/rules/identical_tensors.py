"""Two matrices are equal byte for byte.

Two names store the same matrix, and the config does not tie them. Matrices of one value only are left alone.

Why: Space that could be saved, or a layer that was copied by mistake.

Fix: Nothing needs to be done.

    model.safetensors: 'model.layers.1.mlp.up_proj.weight' is equal to 'model.layers.0.mlp.up_proj.weight'
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about, same_bytes


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    first: dict[tuple[object, ...], str] = {}
    for found in values.tensors:
        tensor = found.tensor
        if len(tensor.shape) < 2 or not found.floats or found.constant or found.zero or len(tensor.parts) > 1:
            continue
        if tensor.name not in subject.model.spans:
            continue
        other = first.setdefault(found.mark, tensor.name)
        shared = subject.model.spans[tensor.name] == subject.model.spans[other]
        if other != tensor.name and not shared and same_bytes(subject, tensor.name, other):
            yield about(subject, found, f"'{tensor.name}' is equal to '{other}'")


rule = Rule("Two matrices are equal byte for byte", "info", "values", "full", values=check)
