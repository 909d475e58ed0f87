"""What a run of validate has found: sorted, folded, measured against policy and baseline, with its exit code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelkit.faults import Severity
from modelkit.rules._contract import Finding, Level
from modelkit.rules._policy import Policy

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
UNCHECKED = ("not-fully-checked", "unreadable-file")
"""Findings that say what was not looked at, rather than what is wrong."""

EXAMPLES = 5  # shown of a finding that is there more often
LONGEST = 600  # characters of a message; a hostile shape can fill megabytes


@dataclass(frozen=True, slots=True)
class Found:
    """One finding with its rule, where it is, and how bad. `count` and `examples` stand for repeats."""

    path: str
    rule: str
    finding: Finding
    severity: Severity
    count: int = 1
    examples: tuple[Finding, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same for the same fault of the same tensor, whatever numbers the message has."""
        tensor = self.finding.tensor if self.count == 1 else None
        return fingerprint(self.rule, self.path, tensor)

    @property
    def message(self) -> str:
        return cut(self.finding.message)

    @property
    def order(self) -> tuple[object, ...]:
        offset = -1 if self.finding.offset is None else self.finding.offset
        rank = -SEVERITIES.index(self.severity)
        return self.path, rank, self.rule, self.count > 1, offset, self.finding.tensor or "", self.finding.message

    def to_json(self) -> dict[str, Any]:
        found = self.finding
        described: dict[str, Any] = {
            "rule": self.rule,
            "severity": self.severity,
            "path": self.path,
            "tensor": found.tensor,
            "message": self.message,
            "fix": found.fix,
            "offset": found.offset,
        }
        if found.size is not None:
            described["size"] = found.size
        if self.count > 1:
            described["count"] = self.count
            described["examples"] = [
                {"tensor": one.tensor, "message": cut(one.message), "offset": one.offset} for one in self.examples
            ]
        return {**described, "fingerprint": self.fingerprint}


@dataclass
class Coverage:
    """What was looked at, and what was not. Bytes are those of files that hold weights."""

    level: Level = "header"
    files: int = 0
    bytes_total: int = 0
    bytes_read: int = 0
    tensors_total: int = 0
    tensors_checked: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)  # path, rule, why
    not_applicable: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)  # path, why, rules
    paths: list[str] = field(default_factory=list)  # every file that was judged
    pointers: list[str] = field(default_factory=list)  # git-lfs pointers that were accepted

    def skip(self, path: str, rule: str, why: str) -> None:
        self.skipped.append((path, rule, cut(why)))

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "files": self.files,
            "bytes_total": self.bytes_total,
            "bytes_read": self.bytes_read,
            "tensors_total": self.tensors_total,
            "tensors_checked": self.tensors_checked,
            "skipped": [{"path": path, "rule": rule, "why": why} for path, rule, why in sorted(self.skipped)],
            "not_applicable": [
                {"path": path, "why": why, "rules": list(rules)} for path, why, rules in sorted(self.not_applicable)
            ],
            "lfs_pointers": sorted(self.pointers),
        }


@dataclass(frozen=True)
class Report:
    """The answer. `ignored` findings are covered by the policy or the baseline and count for nothing."""

    findings: tuple[Found, ...]
    coverage: Coverage
    counts: Mapping[str, int]
    exit_code: int
    policy: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "findings": [found.to_json() for found in self.findings],
            "coverage": self.coverage.to_json(),
            "counts": dict(self.counts),
            "policy": self.policy,
            "exit_code": self.exit_code,
        }


def finished(
    found: Iterable[Found],
    coverage: Coverage,
    fail_on: Severity,
    policy: Policy | None,
    baseline: frozenset[str],
    allow_unchecked: bool,  # noqa: FBT001
) -> Report:
    """Apply policy and baseline, fold repeats, count, and decide the exit code."""
    kept, ignored = [], 0
    expired = _Expired()
    for one in {(f.path, f.rule, f.finding): f for f in found}.values():
        judged = _judged(one, policy, expired)
        known = one.fingerprint in baseline or fingerprint(one.rule, one.path, None) in baseline
        if judged is None or known:
            ignored += 1
        else:
            kept.append(judged)
    kept += expired.findings(policy)
    counts: dict[str, int] = {
        severity: sum(one.count for one in kept if one.severity == severity) for severity in reversed(SEVERITIES)
    }
    counts["ignored"] = ignored
    least = SEVERITIES.index(fail_on)
    failing = any(one.rule not in UNCHECKED and SEVERITIES.index(one.severity) >= least for one in kept)
    unchecked = bool(coverage.skipped) and not allow_unchecked
    return Report(
        tuple(fold(kept)), coverage, counts, 1 if failing else 2 if unchecked else 0, policy.path if policy else None
    )


def fold(found: Iterable[Found]) -> list[Found]:
    """Sorted; more than five of one rule in one file become one with five examples."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for one in sorted(found, key=lambda one: one.order):
        groups.setdefault((one.path, one.severity, one.rule), []).append(one)
    folded: list[Found] = []
    for members in groups.values():
        if len(members) <= EXAMPLES:
            folded += members
        else:
            examples = tuple(member.finding for member in members[:EXAMPLES])
            folded.append(replace(members[0], count=sum(one.count for one in members), examples=examples))
    return sorted(folded, key=lambda one: one.order)


def fingerprint(rule: str, path: str, tensor: str | None) -> str:
    """32 hex digits."""
    text = f"{rule}\0{path}\0{tensor or ''}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def cut(text: str) -> str:
    """A message of bounded length."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


class _Expired:
    """Ignores that would have covered a finding, were they not past their day."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def findings(self, policy: Policy | None) -> list[Found]:
        found = []
        for number in sorted(set(self.used)):
            assert policy is not None  # noqa: S101 - it has the ignores
            ignore = policy.ignores[number]
            message = f"the ignore of {ignore.rule} in {ignore.path} expired on {ignore.expires}: {ignore.reason}"
            fix = "fix the model, or give the ignore a new day and reason"
            found.append(Found(policy.path, "expired-ignore", Finding(policy.path, message, fix), "warning"))
        return found


def _judged(found: Found, policy: Policy | None, expired: _Expired) -> Found | None:
    """With the policy's severity; None where the policy turns it off or ignores it."""
    if policy is None:
        return found
    from datetime import date

    for number, ignore in enumerate(policy.ignores):
        if ignore.covers(found.rule, found.path, found.finding.tensor):
            if ignore.expires is None or ignore.expires >= date.today():
                return None
            expired.used.append(number)
    severity = policy.severities.get(found.rule)
    if severity == "off":
        return None
    return replace(found, severity=severity) if severity in SEVERITIES else found
