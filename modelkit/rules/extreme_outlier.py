"""One value is far beyond all others.

The largest magnitude of a matrix is above 1,000 standard deviations. The deviation is estimated from a sample
of the values.

Why: It may be meant; it also is what a flipped exponent bit looks like, and it ruins every quantisation of its
block.

Fix: Look at it: `modelkit inspect` shows the tensor.

    model.safetensors: the largest value of 'a.weight' is about 52,000 standard deviations away
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values, about


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    for found in values.tensors:
        if found.outlier is not None and len(found.tensor.shape) > 1:
            message = (
                f"the largest value of '{found.tensor.name}' is about {found.outlier:,.0f} standard deviations away"
            )
            yield about(subject, found, message)


rule = Rule("One value is far beyond all others", "info", "values", "full", values=check)
