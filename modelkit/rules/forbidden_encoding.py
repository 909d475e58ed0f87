"""The policy does not allow this encoding.

`encodings` of the policy lists how weights may be stored. Integers, bools and vectors count too where they are
not listed: list what the model needs.

Why: A half-quantised model slips in where a full one is expected.

Fix: Convert it: `modelkit convert MODEL OUT --to bf16`.

    model.safetensors: the policy allows bf16; 'a.weight' is f32
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject


def check(subject: Subject) -> Iterator[Finding]:
    policy = subject.policy
    if policy is None or not policy.encodings:
        return
    for tensor in subject.model.tensors:
        name = tensor.encoding.name
        if name not in policy.encodings and name.partition(":")[0] not in policy.encodings:
            message = f"the policy allows {', '.join(policy.encodings)}; '{tensor.name}' is {name}"
            yield Finding(subject.file_of(tensor.name), message, "", tensor.name)


rule = Rule("The policy does not allow this encoding", "error", "policy", needs=("policy",), model=check)
