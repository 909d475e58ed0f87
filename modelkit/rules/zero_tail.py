"""The file ends in zeros that begin within a tensor.

At least 4 KiB of zeros at the end of the file, over the end of one tensor into the next.

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
        spans = sorted((s for s in subject.model.spans.values() if s.file == file and s.size), key=lambda s: s.start)
        over = [span for span in spans if span.end > start]
        if len(over) > 1 and over[0].start < start:
            message = f"the last {size:,} bytes are zero, over {len(over)} tensors: an interrupted download"
            yield Finding(file, message, "fetch the file again", offset=start, size=size)


rule = Rule("The file ends in zeros that begin within a tensor", "error", "values", "full", values=check)
