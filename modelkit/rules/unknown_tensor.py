"""A tensor that the architecture does not have.

Its name is in no table of the family that the config names, or it is a bias that the config says is not there.
Tables that follow from the config (rotary frequencies, causal masks) are information.

Why: Loaders ignore it, or the config is that of another model.

Fix: Remove it, or correct the config.

    model.safetensors: 'model.layers.0.extra.weight' is not part of llama
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._logical import weight_of

FOLLOWS = re.compile(r".*\.(inv_freq|masked_bias|attn\.bias|position_ids)")


def check(subject: Subject) -> Iterator[Finding]:
    architecture, sizes = subject.knowledge.table()
    dialect = subject.format.dialect
    for tensor in subject.model.tensors:
        weight = weight_of(tensor.name)
        if weight is None or architecture.is_ignored(tensor.name):
            continue
        found = architecture.find(weight, dialect)
        if found is None:
            follows = FOLLOWS.fullmatch(tensor.name) is not None
            message = f"'{tensor.name}' is not part of {architecture.name}"
            yield Finding(subject.file_of(tensor.name), message, "", tensor.name, severity="info" if follows else None)
        elif found[1] is not None and found[1] >= sizes.layers:
            message = f"'{tensor.name}' belongs to a layer beyond the {sizes.layers} of the config"
            yield Finding(subject.file_of(tensor.name), message, "", tensor.name)
        elif found[0].when.endswith("bias") and not found[0].expected(sizes):
            message = f"'{tensor.name}' is there, and by the config there is no {found[0].when}: it is not loaded"
            yield Finding(subject.file_of(tensor.name), message, "", tensor.name)


rule = Rule("A tensor that the architecture does not have", "warning", "config", needs=("architecture",), model=check)
