"""What `shard` and `merge` would do, and what they did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.operations.convert import Prepared
from modelkit.operations.shard import Regrouped
from modelkit.report.text import escape, size, table


def plan_lines(prepared: Prepared) -> list[str]:
    """`--plan`: every file with its tensors, then the sums."""
    plan = prepared.plan
    counts = _tensors(prepared)
    rows: list[tuple[object, ...]] = [("file", "tensors", "bytes")]
    rows += [(file.name, f"{counts.get(file.name, 0):,}", f"{file.size:,}") for file in plan.layout.files]
    return [
        *table(rows, right=(1, 2)),
        "",
        f"output    {plan.layout.size:,} bytes ({size(plan.layout.size)}) in {len(plan.layout.files):,} files",
        f"work      {len(plan.jobs):,} jobs that move bytes, EXACT by construction",
    ]


def plan_document(prepared: Prepared) -> dict[str, Any]:
    """`--plan --json`."""
    return {
        "schema_version": 1,
        "source": prepared.opened.opener.title,
        "destination": prepared.request.destination,
        **_described(prepared),
        **{key: value for key, value in prepared.plan.to_json().items() if key in ("digest", "output_bytes", "jobs")},
        "notes": list(prepared.notes),
    }


def result_lines(done: Regrouped) -> list[str]:
    """What was written, and the model digest that both sides have."""
    prepared = done.result.prepared
    files = len(prepared.plan.layout.files)
    path = escape(prepared.request.destination)
    lines = [f"{path}  {prepared.plan.layout.size:,} bytes in {files:,} file{'s' if files != 1 else ''}"]
    if done.result.resumed:
        lines.insert(0, f"resumed: {done.result.resumed} of {len(prepared.plan.jobs)} jobs were done already")
    if done.before is not None and done.after is not None:
        lines += [f"model digest before  {done.before.digest}", f"model digest after   {done.after.digest}"]
    return lines


def result_document(done: Regrouped) -> dict[str, Any]:
    """`--json`."""
    prepared = done.result.prepared
    return {
        "schema_version": 1,
        "source": prepared.opened.opener.title,
        "destination": prepared.request.destination,
        "bytes": prepared.plan.layout.size,
        **_described(prepared),
        "jobs": len(prepared.plan.jobs),
        "jobs_resumed": done.result.resumed,
        "model_digest": {
            "form": done.before.form if done.before else None,
            "before": done.before.digest if done.before else None,
            "after": done.after.digest if done.after else None,
        },
        "seconds": {"copying": round(done.copying, 3), "digesting": round(done.digesting, 3)},
        "notes": list(prepared.notes),
    }


def _described(prepared: Prepared) -> dict[str, Any]:
    counts = _tensors(prepared)
    files = prepared.plan.layout.files
    return {"files": [{"name": f.name, "bytes": f.size, "tensors": counts.get(f.name, 0)} for f in files]}


def _tensors(prepared: Prepared) -> Mapping[str, int]:
    """How many tensors begin in each file."""
    model = prepared.plan.layout.model
    counts: dict[str, int] = {}
    for tensor in model.tensors:
        file = model.spans[tensor.parts[0].name].file
        counts[file] = counts.get(file, 0) + 1
    return counts
