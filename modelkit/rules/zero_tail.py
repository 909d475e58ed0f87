"""The file ends in zeros, over several tensors.

At least 4 KiB of zeros at the end of the file, over the end of one tensor into the next. Where they begin exactly with
a tensor, two of those that are zero must be matrices: one with its bias may be as it was before training.

Why: Downloaders reserve the whole size first: an interrupted download has the right size and ends in zeros.

Fix: Fetch the file again.

    model.safetensors: the last 23,412 bytes are zero, over 4 tensors: an interrupted download
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values

LEAST = 4096


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for file, size in values.tails.items():
        if size < LEAST or file in subject.broken:
            continue
        start = subject.opener.open(file).size - size
        over = sorted(_reached(subject, file, start))
        within = bool(over) and over[0][0] < start
        if len(over) > 1 and (within or sum(is_matrix for _, is_matrix in over) > 1):
            message = f"the last {size:,} bytes are zero, over {len(over)} tensors: an interrupted download"
            yield Finding(file, message, "fetch the file again", offset=start, size=size)


def _reached(subject: Subject, file: str, start: int) -> Iterator[tuple[int, bool]]:
    """Where each array begins that ends behind `start`, and whether it is a matrix."""
    for tensor in subject.model.tensors:
        for part in tensor.parts:
            span = subject.model.spans[part.name]
            if span.file == file and span.size and span.end > start:
                yield span.start, len(tensor.shape) > 1


rule = Rule("The file ends in zeros, over several tensors", "error", "values", "full", values=check)
