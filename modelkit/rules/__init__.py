"""What `validate` knows to look for. One file for each rule; its docstring is its page.

A rule's id is its file's name with dashes: `overlapping_tensors.py` is `overlapping-tensors`. Many rules are
found while a header is parsed (`faults.add` in the formats); their files say what that means and what to do.
"""

from __future__ import annotations

from functools import cache

from modelkit.rules._contract import Rule
from modelkit.shelf import Shelf

RULES: Shelf[Rule] = Shelf(__name__, "rule")


def word(rule: str) -> str:
    """The id of a rule's file: `overlapping-tensors` for `overlapping_tensors`."""
    return rule.replace("_", "-")


@cache
def by_word() -> dict[str, Rule]:
    """Every rule by its id."""
    return {word(name): RULES[name] for name in RULES}
