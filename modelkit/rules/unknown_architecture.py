"""The architecture is not one that modelkit knows.

The config names a family whose tensors are not in modelkit's tables, or asks of a known family what the tables
do not cover.

Why: Shapes and completeness were not checked. Nothing is guessed: an unknown architecture is never an error.

Fix: A newer modelkit may know it.

    config.json: architecture 'tiny_pellm' is not known: shapes and names were not checked
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject


def check(subject: Subject) -> Iterator[Finding]:
    known = subject.knowledge
    if known.family is not None and known.sizes is None and known.fault is None:
        yield Finding(known.place, f"{known.why}: shapes and names were not checked")


rule = Rule("The architecture is not one that modelkit knows", "info", "config", model=check)
