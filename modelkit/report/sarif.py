"""SARIF 2.1.0 for code scanning: rules with their pages, results with byte regions and stable fingerprints.

GitHub takes at most 25,000 results and 20 tags a rule, and wants a line where there is none: line 1 stands for it
beside the true byte offset. Its exit code is that of the run, and stands in `invocations`.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from modelkit import __version__
from modelkit.faults import Severity
from modelkit.operations.validate_report import Found, Report
from modelkit.report.text import escape
from modelkit.rules import RULES
from modelkit.rules._contract import FAMILIES
from modelkit.sources import is_url

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 25_000
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def document(report: Report) -> dict[str, Any]:
    """The whole log, one run. Only rules that found something are described."""
    fired = sorted({found.rule for found in report.findings})
    shown = report.findings[:MOST_RESULTS]
    notes = [f"{path}: {why}" for path, _, why in sorted(report.coverage.skipped)]
    if len(shown) < len(report.findings):
        notes.append(f"{len(report.findings) - len(shown):,} more findings are left out: the limit is {MOST_RESULTS:,}")
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "modelkit",
                        "semanticVersion": __version__,
                        "rules": [_rule(name) for name in fired],
                    }
                },
                "columnKind": "utf16CodeUnits",
                "invocations": [
                    {
                        "executionSuccessful": report.exit_code != 2,
                        "exitCode": report.exit_code,
                        "toolExecutionNotifications": [
                            {"level": "warning", "message": {"text": escape(note)}} for note in notes
                        ],
                    }
                ],
                "results": [_result(found, fired.index(found.rule)) for found in shown],
            }
        ],
    }


def _rule(name: str) -> dict[str, Any]:
    part = name.replace("-", "_")
    rule, page = RULES[part], RULES.documentation(part)
    return {
        "id": name,
        "name": "".join(piece.capitalize() for piece in name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": page.partition("\n\nWhy:")[0].replace("\n", " ")},
        "help": {"text": page},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"tags": [rule.family, FAMILIES[rule.family]], "precision": "high"},
    }


def _result(found: Found, index: int) -> dict[str, Any]:
    text = escape(found.message)
    if found.count > 1:
        text += f" ({found.count:,} times in this file)"
    if found.finding.fix:
        text += f"\nfix: {escape(found.finding.fix)}"
    return {
        "ruleId": found.rule,
        "ruleIndex": index,
        "level": LEVELS[found.severity],
        "message": {"text": text},
        "locations": [_location(found)],
        "partialFingerprints": {"modelkit/v1": found.fingerprint},
    }


def _location(found: Found) -> dict[str, Any]:
    region: dict[str, int] = {"startLine": 1}
    if found.finding.offset is not None:
        region["byteOffset"] = found.finding.offset
        region["byteLength"] = found.finding.size or 0
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri(found.path)}, "region": region}}
    if found.finding.tensor:
        location["logicalLocations"] = [{"name": escape(found.finding.tensor), "kind": "member"}]
    return location


def uri(path: str) -> str:
    """A relative reference, a file URI for an absolute path, and a URL as it is: it has been made safe already."""
    if is_url(path):
        return path
    quoted = quote(os.fsencode(path))
    return f"file://{quoted}" if path.startswith("/") else quoted
