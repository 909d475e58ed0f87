"""GPTQ zeros are stored in another convention than the label says.

A symmetric GPTQ model stores every zero as 7 (version 1, which adds one when it decodes) or as 8 (version 2).
`checkpoint_format` says which, and its absence means version 1; the data decide. Read from the zeros of up to
16 weights.

Why: Every weight is off by one step of its scale: the model loads and answers nonsense.

Fix: Correct checkpoint_format in quantization_config.

    model.safetensors: labelled gptq_v2, but the stored zeros are 7: the data say gptq
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values

MOST = 16  # weights looked at
PIECE = 65_536  # bytes of zeros of each
STORED = {b"\x77": "gptq", b"\x88": "gptq_v2"}


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    found = subject.knowledge.quantisation
    if subject.knowledge.method != "gptq" or found.get("bits") != 4 or found.get("sym") is not True:
        return
    label = str(found.get("checkpoint_format") or "gptq")
    zeros = [name for name in sorted(subject.model.spans) if name.endswith(".qzeros")][:MOST]
    said: set[str | None] = set()
    for name in zeros:
        span = subject.model.spans[name]
        data = set(subject.opener.open(span.file).read(span.start, min(span.size, PIECE)))
        said.add(STORED.get(bytes(data)) if len(data) == 1 else None)
    if len(said) == 1 and None not in said and label in ("gptq", "gptq_v2") and label not in said:
        (true,) = said
        stored = 7 if true == "gptq" else 8
        message = f"labelled {label}, but the stored zeros are {stored}: the data say {true}"
        yield Finding(subject.file_of(zeros[0]), message, f"set checkpoint_format to {true}", zeros[0])


rule = Rule(
    "GPTQ zeros are stored in another convention than the label says",
    "warning",
    "config",
    "sample",
    needs=("quantisation",),
    values=check,
)
