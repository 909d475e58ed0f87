"""A scale lies where none should.

Of every quantised layout: a scale of zero whose codes differ (the weights are lost), a negative one where a scale is
the size of something (absmax, SCB, the e4m3 scales of NVFP4), an f16 scale with which the largest code is beyond
f16, and bytes that are no scale at all (MLX). f16 scales below 0.000061 have fewer bits than others: information.
NaN and infinity are `nan-weights` and `infinite-weights`. Negative scales of integer codes are usual.

Why: A scale that was rounded to zero or that overflows spoils a whole group of weights, often a single one of them.

Fix: Quantise the original model again, with scales of bf16 or f32.

    model.safetensors: 1 scale of 0 in 'model.layers.0.mlp.up_proj.scales', whose codes differ (row 5): those weights are lost
"""  # noqa: E501 - the message as it is

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._values import Values

if TYPE_CHECKING:
    from modelkit.rules._scales import Scales

AGAIN = "quantise the original model again, with scales of bf16 or f32"
FETCH = "fetch the file again"


def check(subject: Subject, values: Values) -> Iterator[Finding]:
    from modelkit.rules._scales import scales_of

    for tensor in subject.weights.tensors:
        for found in scales_of(subject, tensor, values.level):
            yield from _judged(subject, found)


def _judged(subject: Subject, found: Scales) -> Iterator[Finding]:
    from modelkit.rules._scales import LARGEST_F16, SMALLEST_F16, lost_rows

    name, file = found.part.name, subject.file_of(found.part.name)
    if found.bad:
        message = f"{found.bad:,} of the bytes of '{name}' are no scale (NaN)"
        yield Finding(file, message, FETCH, name, severity="error")
    if found.negative and not found.may_be_negative:
        message = f"{_count(found.negative)} below 0 in '{name}', which holds sizes"
        yield Finding(file, message, FETCH, name, severity="error")
    lost = lost_rows(subject, found) if found.zero else []
    if lost:
        message = f"{_count(found.zero)} of 0 in '{name}', whose codes differ (row {lost[0]:,}): those weights are lost"
        yield Finding(file, message, AGAIN, name)
    if found.reaches > LARGEST_F16:
        message = f"the largest scale in '{name}' is {found.largest:g}: its largest code is {found.reaches:g}, "
        yield Finding(file, f"{message}beyond f16 ({LARGEST_F16:,.0f})", AGAIN, name)
    if found.subnormal:
        message = f"{_count(found.subnormal)} below {SMALLEST_F16:f} in '{name}': as f16 they have fewer bits"
        yield Finding(file, message, "", name, severity="info")


def _count(number: int) -> str:
    return f"{number:,} scale{'s' * (number > 1)}"


rule = Rule("A scale lies where none should", "warning", "values", "sample", values=check)
