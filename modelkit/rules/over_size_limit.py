"""The policy does not allow a file or a model of this size.

`max-file` for every file of weights, `max-model` for all of a model together.

Why: Hosts, registries and file systems have limits of their own.

Fix: Split it: `modelkit shard MODEL OUT --max-size 5GB`.

    model.safetensors: 9,000,000,000 bytes; the policy allows 5,000,000,000 for a file
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

FIX = "split it, or store it in a narrower encoding"


def check(subject: Subject) -> Iterator[Finding]:
    policy = subject.policy
    if policy is None:
        return
    sizes = {file: subject.opener.open(file).size for file in subject.files}
    for file, size in sizes.items():
        if policy.max_file is not None and size > policy.max_file:
            yield Finding(file, f"{size:,} bytes; the policy allows {policy.max_file:,} for a file", FIX)
    total = sum(sizes.values())
    if policy.max_model is not None and total > policy.max_model:
        message = f"{total:,} bytes; the policy allows {policy.max_model:,} for a model"
        yield Finding(subject.place, message, FIX)


rule = Rule(
    "The policy does not allow a file or a model of this size", "error", "policy", needs=("policy",), model=check
)
