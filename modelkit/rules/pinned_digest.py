"""A file has another digest than the policy pins.

As pinned-difference, for the bytes: sha256 of the whole file, with --level full.

Why: The same shapes, other numbers.

Fix: Bring back the approved file, or pin the new one: `modelkit policy init MODEL`.

    model.safetensors: sha256 is 9e3b..., pinned as 77af...
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values

FIX = "bring back the approved file, or pin the new one: modelkit policy init"


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    if subject.policy is None:
        return
    for file, digest in values.digests.items():
        pin = subject.policy.pin_of(subject.opener, file)
        if pin is not None and pin.sha256 and pin.sha256 != digest:
            yield Finding(file, f"sha256 is {digest[:16]}..., pinned as {pin.sha256[:16]}...", FIX)


rule = Rule(
    "A file has another digest than the policy pins", "error", "policy", "full", needs=("policy",), values=check
)
