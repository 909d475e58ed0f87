"""Findings for a person: grouped by file, the worst first, each with its fix, then what was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from modelkit.operations.validate_report import Coverage, Found, Report
from modelkit.report.text import escape, size

COLOURS = {"error": "\x1b[31m", "warning": "\x1b[33m", "info": "\x1b[2m"}
PLAIN = "\x1b[0m"
MOST_SKIPPED = 5


def lines(report: Report, *, colour: bool = False) -> Iterator[str]:
    """The report. Everything that came from a file or a name is escaped."""
    for path, group in groupby(report.findings, key=lambda found: found.path):
        yield escape(path)
        for found in group:
            yield from _finding(found, colour)
        yield ""
    yield from _coverage(report.coverage)
    if report.policy is not None:
        yield f"policy: {escape(report.policy)}"
    yield _sum(report)


def _finding(found: Found, colour: bool) -> Iterator[str]:  # noqa: FBT001
    word = f"{COLOURS[found.severity]}{found.severity:<7}{PLAIN}" if colour else f"{found.severity:<7}"
    place = f" (byte {found.finding.offset:,})" if found.finding.offset is not None else ""
    yield f"  {word}  {found.rule}: {escape(found.message)}{place}"
    for example in found.examples[1:]:
        yield f"           also: {escape(example.message)[:300]}"
    if found.count > len(found.examples) > 0:
        yield f"           and {found.count - len(found.examples):,} more"
    if found.finding.fix:
        yield f"           fix: {escape(found.finding.fix)}"


def _coverage(coverage: Coverage) -> Iterator[str]:
    for path, _, why in sorted(coverage.skipped)[:MOST_SKIPPED]:
        yield f"not checked: {escape(path)}: {escape(why)}"
    if len(coverage.skipped) > MOST_SKIPPED:
        yield f"not checked: {len(coverage.skipped) - MOST_SKIPPED:,} more"
    if coverage.pointers:
        yield f"git-lfs pointers, accepted: {len(coverage.pointers):,}"
    whys = sorted({why for _, why, rules in coverage.not_applicable if "config-shape-mismatch" in rules})
    for why in whys[:MOST_SKIPPED]:
        yield f"not applicable: config against tensors ({escape(why)})"


def _sum(report: Report) -> str:
    coverage, counts = report.coverage, report.counts
    words = [
        f"{counts[severity]:,} {severity}{'' if counts[severity] == 1 else 's'}" for severity in ("error", "warning")
    ]
    words.append(f"{counts['info']:,} info")
    if counts["ignored"]:
        words.append(f"{counts['ignored']:,} ignored")
    files = "1 file" if coverage.files == 1 else f"{coverage.files:,} files"
    looked = (
        f"{files}, {coverage.tensors_checked:,} of {coverage.tensors_total:,} tensors, {size(coverage.bytes_total)}"
    )
    return f"{', '.join(words)} in {looked} (level {coverage.level})"
