"""The policy does not allow this architecture.

`architectures` of the policy lists the families that may be used, by the name that the model gives itself.

Why: A model that nobody has reviewed is loaded.

Fix: Use another model, or extend the policy.

    config.json: the policy allows llama; this is mistral
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject


def check(subject: Subject) -> Iterator[Finding]:
    policy, family = subject.policy, subject.knowledge.family
    if policy is not None and policy.architectures and family not in policy.architectures:
        allowed = ", ".join(policy.architectures)
        yield Finding(subject.knowledge.place, f"the policy allows {allowed}; this is {family or 'not stated'}")


rule = Rule("The policy does not allow this architecture", "error", "policy", needs=("policy",), model=check)
