"""Faults found while a file is parsed: strict reading stops at the first error, validation keeps all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelkit.errors import BrokenFile

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a file. `rule` is the id that `validate` and its documentation use."""

    rule: str
    file: str
    message: str
    fix: str = ""
    offset: int | None = None
    tensor: str | None = None
    severity: Severity = "error"


class Faults:
    """Collects faults in the order in which they are found."""

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.found: list[Fault] = []

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
    ) -> None:
        """Keep a fault; raise BrokenFile for it when reading is strict and it is an error."""
        self.found.append(Fault(rule, file, message, fix, offset, tensor, severity))
        if self.strict and severity == "error":
            raise BrokenFile(f"{file}: {message}", fix, rule, offset)

    @property
    def errors(self) -> list[Fault]:
        return [fault for fault in self.found if fault.severity == "error"]
