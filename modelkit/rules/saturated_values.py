"""Many values stand at the largest number of their dtype.

f16 at 65,504: as many as a row or a column has, or one in a thousand. 8-bit floats touch their limit by design,
so there one in fifty is needed, and those with scales beside them are left alone: a scale puts the largest there.

Why: The weights were clipped in a conversion that overflowed.

Fix: Convert the model again from its original, into bf16 or f32.

    model.safetensors: 96 values of 'model.layers.0.mlp.up_proj.weight' stand at the largest f16
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    codes = {part.name for tensor in subject.weights.tensors for part in tensor.parts}
    for found in values.tensors:
        tensor = found.tensor
        if tensor.name in codes:
            continue
        narrow = tensor.encoding.name.startswith("f8")
        if found.scales or not found.saturated or not (narrow or tensor.encoding.name == "f16"):
            continue
        enough = (
            tensor.count // 50 if narrow else min(*tensor.shape, tensor.count // 1000 or tensor.count, tensor.count)
        )
        if found.saturated >= max(enough, 2):
            message = f"{found.saturated:,} values of '{tensor.name}' stand at the largest {tensor.encoding.name}"
            fix = "convert the model again from its original, into a dtype with a wider range"
            yield about(subject, found, message, fix)


rule = Rule("Many values stand at the largest number of their dtype", "warning", "values", "full", values=check)
