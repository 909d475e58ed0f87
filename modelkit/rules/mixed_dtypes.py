"""A few matrices have another float type than the rest.

At most a tenth of the matrices are in a wider or narrower float than the others. Norms, biases, routers,
embeddings and heads may differ: that is usual. Quantised models and GGUF mixes are left alone.

Why: Wasted space, or a slip in a conversion: half of a layer was cast and half was not.

Fix: Convert the model again: `modelkit convert --to bf16`.

    model.safetensors: 1 of 15 matrices is f32, the others f16: 'model.layers.0.self_attn.q_proj.weight'
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

FLOATS = ("f64", "f32", "f16", "bf16")
USUAL = re.compile(r"norm|router|gate\.|embed|wte|wpe|head|output\.weight|lora_|scale|classifier|rotary")


def check(subject: Subject) -> Iterator[Finding]:
    if subject.knowledge.quantisation or subject.kind == "gguf":
        return
    kinds: dict[str, list[str]] = {}
    for tensor in subject.model.tensors:
        if len(tensor.shape) > 1 and tensor.encoding.kind != "raw" and not USUAL.search(tensor.name):
            kinds.setdefault(tensor.encoding.name, []).append(tensor.name)
    if len(kinds) < 2 or not set(kinds) <= set(FLOATS):
        return
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    total = sum(map(len, kinds.values()))
    for kind, names in kinds.items():
        if kind != most and len(names) * 10 <= total:
            verb = "is" if len(names) == 1 else "are"
            message = f"{len(names)} of {total} matrices {verb} {kind}, the others {most}: '{names[0]}'"
            yield Finding(subject.file_of(names[0]), message, "convert the model again into one dtype", names[0])


rule = Rule("A few matrices have another float type than the rest", "warning", "config", model=check)
