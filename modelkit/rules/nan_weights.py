"""A weight or a scale is NaN.

Every float of every dtype is looked at, bfloat16 and the 8-bit floats too, and the scales and minimums of
quantised blocks, where one NaN spoils 32 to 256 weights.

Why: One NaN spreads over everything that it is multiplied with: the model answers nonsense or nothing.

Fix: Fetch the file again; if its digest is right, the model was published broken.

    model.safetensors: 1 NaN in 'model.layers.0.mlp.up_proj.weight', the first at [3, 5]
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about, where


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for found in values.tensors:
        if found.nan and found.nan_at is not None:
            what = "NaN scale" if found.scales else "NaN"
            plural = "s" if found.scales and found.nan > 1 else ""
            place = where(found, found.nan_at)
            message = f"{found.nan:,} {what}{plural} in '{found.tensor.name}', the first {place}"
            fix = "fetch the file again; if its digest is right, it was published broken"
            yield about(subject, found, message, fix)


rule = Rule("A weight or a scale is NaN", "error", "values", "sample", values=check)
