"""A packed weight lacks the arrays that decode it.

Every packed weight needs its scales, and by layout zeros, group indices or biases, in whatever shard they lie.

Why: The codes alone mean nothing; some loaders take a scale of 1.

Fix: Fetch all files of the model.

    model-00001-of-00003.safetensors: 'model.layers.0.mlp.up_proj.weight_packed' has no weight_scale
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelkit.rules._contract import Finding, Rule, Subject

NEEDED: Mapping[str, tuple[str, ...]] = {
    ".qweight": (".scales", ".qzeros"),
    ".weight_packed": (".weight_scale",),
    ".scales": (".weight|.qweight",),
    "_blocks": ("_scales",),
    ".weight.absmax": (".weight",),
}
"""Beside a tensor whose name ends so, one with each of these endings (| = either)."""


def check(subject: Subject) -> Iterator[Finding]:
    if subject.missing or subject.broken or subject.is_one_of_several:
        return  # what the damaged or absent files hold is not known
    names = {tensor.name for tensor in subject.model.tensors}
    for name in sorted(names):
        for ending, needed in NEEDED.items():
            if not name.endswith(ending):
                continue
            stem = name.removesuffix(ending)
            for wanted in needed:
                if not any(stem + one in names for one in wanted.split("|")):
                    message = f"'{name}' has no {wanted.replace('|', ' or ').lstrip('._')}"
                    yield Finding(subject.file_of(name), message, "fetch all files of the model", name)


rule = Rule("A packed weight lacks the arrays that decode it", "error", "config", model=check)
