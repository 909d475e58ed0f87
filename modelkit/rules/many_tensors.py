"""More tensors than some readers take.

More than 100,000 tensors in one model. Legal, and modelkit reads a million.

Why: Some readers stop at 8,192, others need gigabytes for the header alone.

Fix: Stack the experts, or split the model.

    model.safetensors: 1,000,000 tensors: some readers stop at 8,192
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

MANY = 100_000


def check(subject: Subject) -> Iterator[Finding]:
    count = len(subject.model.tensors)
    if count > MANY:
        yield Finding(
            subject.place, f"{count:,} tensors: some readers stop at 8,192", "stack the experts, or split the model"
        )


rule = Rule("More tensors than some readers take", "warning", "safetensors", model=check)
