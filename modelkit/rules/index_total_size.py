"""The index states another total size than the tensors have.

`metadata.total_size` is the sum of the bytes of all tensors. An index without it is fine.

Why: The index belongs to another copy, or was written by hand.

Fix: Convert the folder once more: modelkit writes a right index.

    model.safetensors.index.json: total_size says 1, the tensors have 107,648
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._texts import object_of

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def check(subject: Subject) -> Iterator[Finding]:
    if subject.name or subject.missing or subject.broken:
        return
    for index in INDICES:
        if not subject.opener.holds(index) or len(subject.files) < 2:
            continue
        metadata = object_of(subject.opener, index).get("metadata")
        stated = metadata.get("total_size") if isinstance(metadata, dict) else None
        total = sum(span.size for span in subject.model.spans.values())
        if stated is not None and stated != total:
            said = f"{stated:,}" if type(stated) is int else str(stated)[:80]
            message = f"total_size says {said}, the tensors have {total:,}"
            yield Finding(index, message, "convert the folder once more: modelkit writes a right index")


rule = Rule("The index states another total size than the tensors have", "warning", "folder", model=check)
