"""GitHub Actions: annotations on stdout, and a table for the step's summary."""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.operations.validate_report import Found, Report
from modelkit.report.text import escape

WORDS = {"error": "error", "warning": "warning", "info": "notice"}
MOST_ROWS = 200  # of the summary; GitHub takes a megabyte


def commands(report: Report) -> Iterator[str]:
    """`::error file=PATH,title=RULE::message` lines."""
    for found in report.findings:
        where = f"file={_property(found.path)},title={_property(found.rule)}"
        yield f"::{WORDS[found.severity]} {where}::{_data(_text(found))}"
    for path, _, why in sorted(report.coverage.skipped):
        yield f"::warning file={_property(path)},title=not checked::{_data(escape(why))}"


def summary(report: Report) -> str:
    """Markdown: counts, then a row for each finding."""
    counts, coverage = report.counts, report.coverage
    sums = (
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['info']} info in {coverage.files} files "
        f"(level {coverage.level}, exit code {report.exit_code})"
    )
    lines = ["### modelkit validate", "", sums, ""]
    if report.findings:
        lines += ["| severity | file | rule | finding |", "| --- | --- | --- | --- |"]
    for found in report.findings[:MOST_ROWS]:
        cells = (found.severity, found.path, found.rule, _text(found))
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    if len(report.findings) > MOST_ROWS:
        lines.append(f"\n{len(report.findings) - MOST_ROWS} more")
    lines += [f"\nnot checked: {_cell(path)}: {_cell(why)}" for path, _, why in sorted(coverage.skipped)]
    return "\n".join(lines) + "\n\n"


def _text(found: Found) -> str:
    times = f" ({found.count:,} times)" if found.count > 1 else ""
    fix = f" Fix: {found.finding.fix}." if found.finding.fix else ""
    return f"{escape(found.message)}{times}.{escape(fix)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(escape(text)).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """Text that stays text in Markdown and HTML."""
    safe = escape(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"&#{ord(sign)};" if sign in "\\|`*_[]!~" else sign for sign in safe)
