"""A long run of zeros within a tensor.

64 KiB or more of zeros, on bounds of 4 KiB of the file, in a tensor that is not all zero. Embeddings are left
alone: the rows of unused tokens often are zero.

Why: A hole that a download or a disk has left.

Fix: Fetch the file again and compare its digest.

    model.safetensors: 131,072 zero bytes at 4,096 inside 'model.embed_tokens.weight'
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values

PADDED = 2  # embeddings end in unused rows: zeros that reach a tensor's end are its padding


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    zero = {found.tensor.name for found in values.tensors if found.zero and found.floats}
    spans = [
        (subject.model.spans[part.name], found.tensor)
        for found in values.tensors
        if found.floats and found.tensor.name not in zero
        for part in found.tensor.parts
        if part.name in subject.model.spans
    ]
    for file, runs in values.zeros.items():
        tail = subject.opener.open(file).size - values.tails.get(file, 0)
        for start, size in runs:
            for span, tensor in spans:
                inside = span.file == file and span.start < start and start + size < span.end - PADDED * 4096
                if inside and start < tail and "embed" not in tensor.name:
                    message = f"{size:,} zero bytes at {start:,} inside '{tensor.name}'"
                    fix = "fetch the file again and compare its digest"
                    yield Finding(file, message, fix, tensor.name, start, size)


rule = Rule("A long run of zeros within a tensor", "warning", "values", "full", values=check)
