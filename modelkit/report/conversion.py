"""What a conversion would do, and what it did."""

from __future__ import annotations

from typing import Any

from modelkit.operations.convert import Prepared, Result
from modelkit.operations.estimate import Estimate
from modelkit.operations.receipt import summary
from modelkit.report.text import escape, seconds, size, table
from modelkit.report.text import shape as shape_text

MOST = 4  # probes named one by one


def plan_lines(prepared: Prepared, estimate: Estimate) -> list[str]:
    """`convert --plan`: every tensor, then the sums."""
    plan = prepared.plan
    rows: list[tuple[object, ...]] = [("tensor", "shape", "from", "to", "at worst", "bytes", "")]
    for way in plan.assignments:
        named = way.target.name if way.target.name == way.source.name else f"{way.source.name} -> {way.target.name}"
        remark = "; ".join(filter(None, [way.why, *(type(step).__name__ for step in way.steps)]))
        encodings = (way.source.encoding.name, way.target.encoding.name)
        rows.append((named, shape_text(way.target.shape), *encodings, way.expectation, f"{way.target.size:,}", remark))
    worst = "  ".join(f"{verdict} {number}" for verdict, number in plan.counts().items())
    files = ", ".join(f"{escape(file.name)} ({size(file.size)})" for file in plan.layout.files[:8])
    more = len(plan.layout.files) - 8
    return [
        *table(rows, right=(5,)),
        "",
        f"output    {plan.layout.size:,} bytes in {files}" + (f" and {more} more" if more > 0 else ""),
        f"verdicts  {worst} (at worst; the receipt has the measured ones)",
        f"work      {len(plan.jobs)} jobs of at most {size(plan.memory)} memory each",
        f"time      {seconds(estimate.seconds)} ({estimate.basis})",
        f"disk      {estimate.free:,} bytes free at the destination",
        f"probes    {_few(plan.probes) or 'none: headers only'}",
    ]


def _few(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    more = f", ... and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return ", ".join(map(escape, names[:MOST])) + more


def plan_document(prepared: Prepared, estimate: Estimate) -> dict[str, Any]:
    """`convert --plan --json`."""
    return {
        "schema_version": 1,
        "source": prepared.opened.opener.title,
        "destination": prepared.request.destination,
        "to": prepared.request.to,
        **prepared.plan.to_json(),
        "seconds_estimate": round(estimate.seconds, 2),
        "seconds_basis": estimate.basis,
        "free_disk_bytes": estimate.free,
        "notes": list(prepared.notes),
    }


def result_lines(result: Result) -> list[str]:
    """What was written, and the verdicts in one line: `EXACT 210  ROUNDED 61 (max 3.7e-04)`."""
    words = []
    for verdict, number, relative in summary(result.verdicts):
        words.append(f"{verdict} {number}" + (f" (max {relative:.1e})" if relative else ""))
    path = escape(result.prepared.request.destination)
    lines = [f"{path}  {result.prepared.plan.layout.size:,} bytes", "  ".join(words)]
    if result.resumed:
        lines.insert(0, f"resumed: {result.resumed} of {len(result.prepared.plan.jobs)} jobs were done already")
    return lines


def result_document(result: Result) -> dict[str, Any]:
    """`convert --json`."""
    return {
        "schema_version": 1,
        "source": result.prepared.opened.opener.title,
        "destination": result.prepared.request.destination,
        "bytes": result.prepared.plan.layout.size,
        "jobs": len(result.prepared.plan.jobs),
        "jobs_resumed": result.resumed,
        "verdicts": [
            {"verdict": verdict, "tensors": number, "max_relative_error": relative}
            for verdict, number, relative in summary(result.verdicts)
        ],
        "notes": list(result.notes),
    }
