"""The policy does not allow this format.

`formats` of the policy lists the formats that may be used; `forbid-pickle` forbids everything that holds a
pickle.

Why: A project that has settled on safetensors wants to hear of the first file that is not.

Fix: Convert it into a format that is allowed, as `modelkit convert MODEL OUT.safetensors` does.

    model.bin: the policy allows safetensors, gguf; this is pytorch
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

ALIASES = {"hf_folder": "safetensors"}  # a folder's weights are safetensors
PICKLES = ("pytorch",)
FIX = "convert it: modelkit convert MODEL OUT"
ENDINGS = {"safetensors": ".safetensors", "hf_folder": "/", "gguf": ".gguf", "llama2c": ".bin"}  # what can be written


def check(subject: Subject) -> Iterator[Finding]:
    policy = subject.policy
    if policy is None:
        return
    kind = ALIASES.get(subject.kind, subject.kind)
    ending = next((ENDINGS[one] for one in policy.formats or ("safetensors",) if one in ENDINGS), None)
    fix = "" if ending is None else FIX + ending
    if policy.formats and kind not in policy.formats and subject.kind not in policy.formats:
        yield Finding(subject.place, f"the policy allows {', '.join(policy.formats)}; this is {kind}", fix)
    elif policy.forbid_pickle and subject.kind in PICKLES:
        yield Finding(subject.place, "the policy forbids pickles", fix)


rule = Rule("The policy does not allow this format", "error", "policy", needs=("policy",), model=check)
