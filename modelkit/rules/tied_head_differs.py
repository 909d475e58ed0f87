"""The config ties the head, but another head is stored.

`tie_word_embeddings` is true, yet an output matrix is there and its bytes are not those of the embedding. With
`--level full` the bytes are compared; another shape or dtype shows in the headers.

Why: Loaders ignore the stored head, so a model that was trained with it answers differently.

Fix: Set tie_word_embeddings to false, or remove the head.

    model.safetensors: 'lm_head.weight' differs from the embedding and will be ignored: the config ties them
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, same_bytes

FIX = "set tie_word_embeddings to false, or remove the head"


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    architecture, sizes = subject.knowledge.table()
    if not sizes.tied:
        return
    dialect, spans = subject.format.dialect, subject.model.spans
    names = {row.when: row.names[dialect] for row in architecture.table if row.shape[:1] == ("vocabulary",)}
    head, embedding = names.get("untied", ""), names.get("", "")
    if head in spans and embedding in spans and not same_bytes(subject, head, embedding, values.level):
        message = f"'{head}' differs from the embedding and will be ignored: the config ties them"
        yield Finding(spans[head].file, message, FIX, head, spans[head].start, spans[head].size)


rule = Rule(
    "The config ties the head, but another head is stored",
    "warning",
    "config",
    "full",
    needs=("architecture",),
    values=check,
)
