"""Faults found while a file is parsed: strict reading stops at the first error, validation keeps all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from modelkit.errors import BrokenFile

MOST = 10_000  # faults of one rule in one file that are kept
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a file. `rule` is the id that `validate` and its documentation use.

    `severity` says whether reading can go on. `judged` is what `validate` makes of it where that is another: what
    modelkit reads rightly all the same, but others would not.
    """

    rule: str
    file: str
    message: str
    fix: str = ""
    offset: int | None = None
    tensor: str | None = None
    severity: Severity = "error"
    judged: Severity | None = None


class Faults:
    """Collects faults in the order in which they are found: of one rule in one file the first ones, then their number.

    `more` counts those that are not kept: a hostile header can hold a million faults.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.found: list[Fault] = []
        self.more: Counter[tuple[str, str]] = Counter()
        self._kept: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        rule: str,
        file: str,
        message: str,
        fix: str = "",
        *,
        offset: int | None = None,
        tensor: str | None = None,
        severity: Severity = "error",
        judged: Severity | None = None,
    ) -> None:
        """Keep a fault; raise BrokenFile for it when reading is strict and it is an error."""
        if self._kept[rule, file] < MOST:
            self._kept[rule, file] += 1
            self.found.append(Fault(rule, file, message, fix, offset, tensor, severity, judged))
        else:
            self.more[rule, file] += 1
        if self.strict and severity == "error":
            raise BrokenFile(f"{file}: {message}", fix, rule, offset)

    @property
    def notes(self) -> list[str]:
        """What is said of warnings while work goes on: of those of one kind the first, and how many are like it."""
        kinds: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.found:
            if fault.severity == "warning":
                kinds.setdefault((fault.rule, fault.fix), []).append(fault)
        return [
            f"{first.message} (and {len(others):,} more so)" if others else first.message
            for first, *others in kinds.values()
        ]

    @property
    def errors(self) -> list[Fault]:
        return [fault for fault in self.found if fault.severity == "error"]
