"""A whole matrix is zero.

Every value, or every scale of a quantised matrix, is zero. Vectors are left alone (biases often are zero); the
B matrix of a LoRA that was never trained is information.

Why: A layer that was never written: an interrupted download or a failed conversion.

Fix: Fetch the file again.

    model.safetensors: 'model.layers.0.mlp.up_proj.weight' is all zero
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.faults import Severity
from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for found in values.tensors:
        tensor = found.tensor
        if found.floats and found.zero and sum(size > 1 for size in tensor.shape) > 1:
            severity: Severity | None = "info" if "lora_B" in tensor.name or "lora_b" in tensor.name else None
            seen = "" if found.whole else " in every block that was sampled"
            message = f"'{tensor.name}' is all zero{seen}"
            yield about(subject, found, message, "fetch it again", severity)


rule = Rule("A whole matrix is zero", "warning", "values", "sample", values=check)
