"""What folding the arrays of a quantised layout finds: companions, widths, groups, zeros against their label."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from modelkit.errors import ModelkitError
from modelkit.faults import Fault, Faults
from modelkit.operations.opening import folded_model, may_be_quantised
from modelkit.rules._contract import Subject


def folding(subject: Subject, known: Collection[str]) -> Iterator[Fault]:
    """Faults of the rules that have not found anything in this model yet.

    Files that are damaged or absent are left alone: what they hold is not known.
    """
    if subject.format.dialect != "huggingface" or not may_be_quantised(subject.model, subject.opener):
        return
    if subject.broken or subject.missing:
        return
    faults = Faults(strict=False)
    try:
        folded_model(subject.model, subject.opener, faults)
    except ModelkitError as error:
        rule = getattr(error, "rule", "") or "not-fully-checked"
        faults.add(rule, subject.place, error.message, error.fix)
    told = set(known)
    yield from (fault for fault in faults.found if fault.rule not in told)
