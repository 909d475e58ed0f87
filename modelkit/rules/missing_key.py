"""A metadata key that engines need is not there.

`general.architecture`, which must be a text, and the sizes of a known architecture (errors); the tokenizer's kind, its
tokens, and the merges or scores that its kind needs (warnings: the model can be loaded but not fed with text).

Why: The model does not load, or cannot be run on text.

Fix: Write the file again with a current converter; bring the tokenizer with --tokenizer.

    model.gguf: no tokenizer: text cannot be run
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelkit.rules._contract import Finding, Rule, Subject

FIX = "write the file again with a current converter"
WITHOUT_TOKENS = ("none", "no_vocab")
NEEDED = {"gpt2": ("tokenizer.ggml.merges",), "llama": ("tokenizer.ggml.scores",)}
"""By the kind of tokenizer: byte-pair merges, or the scores of SentencePiece."""


def check(subject: Subject) -> Iterator[Finding]:
    known, keys = subject.knowledge, subject.knowledge.keys
    family = keys.get("general.architecture")
    if "general.architecture" not in keys and keys.get("general.type") != "imatrix":  # which has no architecture
        yield Finding(subject.name, "no key general.architecture", FIX)
    elif family is not None and (not isinstance(family, str) or not family.strip()):
        yield Finding(subject.name, f"general.architecture is {family!r}, not the name of one", FIX)
    if keys.get("general.type", "model") == "model" and f"{known.family}.block_count" in keys:
        yield from _tokenizer(subject.name, keys)


def _tokenizer(file: str, keys: Mapping[str, Any]) -> Iterator[Finding]:
    kind = keys.get("tokenizer.ggml.model")
    if kind in WITHOUT_TOKENS:
        return
    needed = ("tokenizer.ggml.tokens", *NEEDED.get(str(kind), ()))
    lost = [key for key in needed if not keys.get(key)]
    if kind is None or lost:
        what = "no tokenizer" if kind is None else f"no {' and no '.join(lost)}"
        fix = "write it again with its tokenizer: modelkit convert --tokenizer FILE"
        yield Finding(file, f"{what}: text cannot be run", fix, severity="warning")


rule = Rule("A metadata key that engines need is not there", "error", "gguf", needs=("gguf",), model=check)
