"""A whole matrix has one value.

Every value of a matrix of floats is the same, and not zero. Vectors are left alone (norms begin as ones).

Why: A placeholder that was never trained or never written.

Fix: Fetch the file again, or ask its author.

    model.safetensors: every value of 'model.layers.0.mlp.up_proj.weight' is the same
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for found in values.tensors:
        tensor = found.tensor
        if (
            found.floats
            and found.constant
            and not found.zero
            and not found.nan
            and sum(s > 1 for s in tensor.shape) > 1
        ):
            seen = "" if found.whole else " that was sampled"
            message = f"every value{seen} of '{tensor.name}' is the same"
            yield about(subject, found, message, "fetch it again")


rule = Rule("A whole matrix has one value", "warning", "values", "sample", values=check)
