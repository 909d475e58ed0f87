"""A tensor name is not plain ASCII.

Legal, and shown because letters that look alike hide differences: Latin a and Cyrillic a are two names.

Why: A loader that compares names will not find the tensor that a person believes to read.

Fix: Nothing needs to be done if it is meant.

    model.safetensors: 3 names are not ASCII, the first is 'слой.вес'
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject


def check(subject: Subject) -> Iterator[Finding]:
    names = [tensor.name for tensor in subject.model.tensors if not tensor.name.isascii()]
    if names:
        many = "1 name is" if len(names) == 1 else f"{len(names):,} names are"
        message = f"{many} not ASCII, the first is '{names[0]}'"
        yield Finding(subject.file_of(names[0]), message, "", names[0])


rule = Rule("A tensor name is not plain ASCII", "info", "names", model=check)
