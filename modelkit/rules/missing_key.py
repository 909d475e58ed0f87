"""A metadata key that engines need is not there.

`general.architecture` and the sizes of a known architecture (errors); the tokenizer (a warning: the model can
be loaded but not fed with text).

Why: The model does not load, or cannot be run on text.

Fix: Write the file again with a current converter; bring the tokenizer with --tokenizer.

    model.gguf: no tokenizer: text cannot be run
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

FIX = "write the file again with a current converter"


def check(subject: Subject) -> Iterator[Finding]:
    known, keys = subject.knowledge, subject.knowledge.keys
    if "general.architecture" not in keys and keys.get("general.type") != "imatrix":  # which has no architecture
        yield Finding(subject.name, "no key general.architecture", FIX)
    speaks = keys.get("general.type", "model") == "model" and f"{known.family}.block_count" in keys
    if speaks and "tokenizer.ggml.model" not in keys:
        fix = "write it again with its tokenizer: modelkit convert --tokenizer FILE"
        yield Finding(subject.name, "no tokenizer: text cannot be run", fix, severity="warning")


rule = Rule("A metadata key that engines need is not there", "error", "gguf", needs=("gguf",), model=check)
