"""What folding the arrays of a quantised layout finds: companions, widths, groups, zeros against their label."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from modelkit.faults import Fault
from modelkit.rules._contract import Subject


def folding(subject: Subject, later: Collection[str], known: Collection[tuple[str, str | None]]) -> Iterator[Fault]:
    """Its faults, but for rules that are asked at `later` levels, and for what is `known` of a tensor by its rule."""
    told = set(known)
    yield from (fault for fault in subject.weights.faults if fault.rule not in later and _place(fault) not in told)


def _place(fault: Fault) -> tuple[str, str | None]:
    return fault.rule, fault.tensor
