"""A tensor that the architecture needs is not there.

Every layer must be complete, and the output matrix must be there unless the config ties it to the embedding.
For a split GGUF the number of tensors must be what `split.tensors.count` says.

Why: The weight would be random, and nothing would say so.

Fix: Fetch all files of the model, or say in the config that the head is tied.

    config.json: 'lm_head.weight' is not there and tie_word_embeddings is false: the head would be random
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._logical import weight_of

FIX = "fetch all files of the model"


def check(subject: Subject) -> Iterator[Finding]:
    architecture, sizes = subject.knowledge.table()
    if not subject.model.tensors or subject.is_one_of_several:
        return  # a vocabulary alone, or one shard looked at by itself
    dialect = subject.format.dialect
    there = {weight_of(tensor.name) for tensor in subject.model.tensors}
    if subject.broken or subject.missing:
        return  # what the damaged or absent file holds is not known
    for row, layer in architecture.expected(sizes):
        name = row.names[dialect].format(layer)
        if not name or name in there:
            continue
        head = row.when == "untied"
        why = " and tie_word_embeddings is false: the head would be random" if head else ""
        yield Finding(subject.place, f"'{name}' is not there{why}", FIX, name)


rule = Rule(
    "A tensor that the architecture needs is not there", "error", "config", needs=("architecture",), model=check
)
