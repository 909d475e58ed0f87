"""A weight or a scale is infinite.

As for NaN: floats of every dtype that has an infinity, and the scales and minimums of quantised blocks.

Why: Usually an overflow when the model was cast to a narrower float. It becomes NaN with the first subtraction.

Fix: Convert the model again from its original, into bf16 or f32.

    model.safetensors: 3 infinities in 'model.layers.0.mlp.up_proj.weight', the first at [0, 7]
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about, where


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for found in values.tensors:
        if found.infinite and found.infinite_at is not None:
            what = "infinite scale" if found.scales else "infinite value"
            plural = "s" if found.infinite > 1 else ""
            place = where(found, found.infinite_at)
            message = f"{found.infinite:,} {what}{plural} in '{found.tensor.name}', the first {place}"
            fix = "convert the model again from its original, into a dtype with a wider range"
            yield about(subject, found, message, fix)


rule = Rule("A weight or a scale is infinite", "error", "values", "sample", values=check)
