"""The config's list of what is not quantised is not that of what is packed.

`ignore`, `modules_to_not_convert` and their like name the modules that stay floats; in compressed-tensors the groups
also name those that do not. Wrong are a packed weight that is listed, and a float weight that is not although its
fellows of other layers are packed. MLX and bitsandbytes go by what is stored.

Why: Engines build each module by the list: loading fails, or the weight stays random.

Fix: Correct the list, or fetch config and weights again from one place.

    model.safetensors: 'model.layers.1.mlp.up_proj.weight' is a float weight that the config does not list; of 'model.layers.*.mlp.up_proj' 3 are quantised
"""  # noqa: E501 - the message as it is

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
FIX = "add the module to the list, or fetch config and weights again from one place"
LISTING = ("compressed_tensors", "gptq", "awq", "fp8")
"""Layouts whose engines go by the list."""


def check(subject: Subject) -> Iterator[Finding]:
    weights = subject.weights
    if weights.layout not in LISTING:
        return
    from modelkit.layouts._ignore_lists import Listed

    listed = Listed.of(weights.layout, weights.settings or {})
    packed = Counter(_kind(tensor.name) for tensor in weights.tensors)
    for tensor in weights.floats:
        kind = _kind(tensor.name)
        if not packed[kind] or listed.may_leave(tensor.name.removesuffix(".weight")):
            continue
        message = f"'{tensor.name}' is a float weight that the config does not list; of '{kind}' {packed[kind]:,} "
        message += "are quantised" if packed[kind] > 1 else "is quantised"
        yield Finding(subject.file_of(tensor.name), message, FIX, tensor.name)


def _kind(name: str) -> str:
    """The module without its numbers: fellows of other layers have the same."""
    return NUMBER.sub("*", name.removesuffix(".weight"))


rule = Rule("The config's list of what is not quantised is not that of what is packed", "error", "config", model=check)
