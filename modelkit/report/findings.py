"""Write a report of `validate` in any of its formats, to stdout or whole into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

from modelkit.operations.validate_report import Report
from modelkit.report import console


def write(report: Report, format: str, output: str | None) -> None:
    """Raises CannotAccess when the file cannot be written; it is renamed into place when it is whole."""
    text = RENDER[format](report, output is None)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    from modelkit.sources import write_report

    write_report(output, text)


def _text(report: Report, terminal: bool) -> str:  # noqa: FBT001
    from modelkit.report import findings_text

    colour = terminal and console.colourful(sys.stdout)
    return "\n".join(findings_text.lines(report, colour=colour)) + "\n"


def _json(report: Report, terminal: bool) -> str:  # noqa: FBT001
    return json.dumps(report.to_json(), indent=2) + "\n"


def _sarif(report: Report, terminal: bool) -> str:  # noqa: FBT001
    from modelkit.report import sarif

    return json.dumps(sarif.document(report), indent=2) + "\n"


def _junit(report: Report, terminal: bool) -> str:  # noqa: FBT001
    from modelkit.report import junit

    return junit.document(report)


def _github(report: Report, terminal: bool) -> str:  # noqa: FBT001
    from modelkit.report import github

    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and terminal:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(github.summary(report))
    return "".join(line + "\n" for line in github.commands(report))


RENDER: Mapping[str, Callable[[Report, bool], str]] = {
    "text": _text,
    "json": _json,
    "sarif": _sarif,
    "junit": _junit,
    "github": _github,
}
