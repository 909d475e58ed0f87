"""JUnit XML: a test case for each file and family of rules; an error is a failure, what was not checked is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape as xml
from xml.sax.saxutils import quoteattr

from modelkit.operations.validate_report import Found, Report
from modelkit.report.text import escape
from modelkit.rules import RULES
from modelkit.rules._contract import FAMILIES, Family


def document(report: Report) -> str:
    """The file's text. Characters that XML cannot hold are escaped as on a terminal."""
    cases = list(_cases(report))
    failures = sum("<failure" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    head = f'tests="{len(cases)}" failures="{failures}" errors="0" skipped="{skipped}"'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuites name="modelkit validate" {head}>']
    lines += [f'<testsuite name="modelkit validate" {head}>', *cases, "</testsuite>", "</testsuites>"]
    return "\n".join(lines) + "\n"


def _cases(report: Report) -> Iterator[str]:
    found: dict[tuple[str, Family], list[Found]] = {}
    for one in report.findings:
        found.setdefault((one.path, RULES[one.rule.replace("-", "_")].family), []).append(one)
    gaps: dict[str, list[str]] = {}
    for path, _, why in report.coverage.skipped:
        gaps.setdefault(path, []).append(why)
    for path in sorted({*report.coverage.paths, *(path for path, _ in found)}):
        for family, title in FAMILIES.items():
            members = found.get((path, family), [])
            skipped = gaps.get(path, []) if family == "identity" else []
            yield _case(path, title, members, skipped)


def _case(path: str, title: str, found: list[Found], skipped: list[str]) -> str:
    errors = [one for one in found if one.severity == "error"]
    others = [one for one in found if one.severity != "error"]
    inner = ""
    if skipped:
        inner += f"<skipped message={_attribute(skipped[0])}/>"
    elif errors:
        text = "\n".join(_line(one) for one in errors)
        inner += (
            f"<failure message={_attribute(errors[0].message)} type={_attribute(errors[0].rule)}>{xml(text)}</failure>"
        )
    if others:
        inner += f"<system-out>{xml(chr(10).join(_line(one) for one in others))}</system-out>"
    start = f"<testcase classname={_attribute(path)} name={_attribute(title)}"
    return f"{start}>{inner}</testcase>" if inner else f"{start}/>"


def _line(found: Found) -> str:
    fix = f"\n  fix: {escape(found.finding.fix)}" if found.finding.fix else ""
    times = f" ({found.count:,} times)" if found.count > 1 else ""
    return f"{found.severity} {found.rule}: {escape(found.message)}{times}{fix}"


def _attribute(text: str) -> str:
    return quoteattr(escape(text))
