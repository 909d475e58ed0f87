"""The model is not the one that the policy pins.

Pins are named by their path from the policy file, or by the name of the file alone. `modelkit policy init`
writes the encoding and shape of every tensor and the digest of every file into the
policy. Shapes and encodings are compared at every level, digests with --level full.

Why: A model was exchanged or converted since it was approved.

Fix: Bring back the approved file, or pin the new one: `modelkit policy init MODEL`.

    model.safetensors: 'a.weight' is f32 [4, 4], pinned as bf16 [4, 4]
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

FIX = "bring back the approved file, or pin the new one: modelkit policy init"


def check(subject: Subject) -> Iterator[Finding]:
    policy = subject.policy
    if policy is None or not policy.pins:
        return
    by_file: dict[str, dict[str, str]] = {file: {} for file in subject.files}
    for tensor in subject.model.tensors:
        by_file.setdefault(subject.file_of(tensor.name), {})[tensor.name] = described(
            tensor.encoding.name, tensor.shape
        )
    for file, tensors in by_file.items():
        pin = policy.pin_of(subject.opener, file)
        if pin is None:
            yield Finding(file, "no pin names this file", FIX, severity="warning")
            continue
        size = subject.opener.open(file).size
        if pin.size is not None and size != pin.size:
            yield Finding(file, f"{size:,} bytes, pinned with {pin.size:,}", FIX)
        for name in sorted(pin.tensors.keys() | tensors.keys()):
            found, wanted = tensors.get(name), pin.tensors.get(name)
            if found != wanted:
                message = f"'{name}' is {found or 'not there'}, pinned as {wanted or 'not there'}"
                yield Finding(file, message, FIX, name)
    for file in policy.pinned_in(subject.opener):
        if file not in by_file and not subject.opener.holds(file):
            yield Finding(file, "pinned, but not there", FIX)


def described(encoding: str, shape: tuple[int, ...]) -> str:
    """How a pin writes a tensor: `bf16 [256, 64]`."""
    return f"{encoding} [{', '.join(map(str, shape))}]"


rule = Rule("The model is not the one that the policy pins", "error", "policy", needs=("policy",), model=check)
