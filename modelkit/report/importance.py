"""What `importance` did."""

from __future__ import annotations

from typing import Any

from modelkit.operations.compute_importance import Computed
from modelkit.report.text import escape, size


def lines(found: Computed) -> list[str]:
    """What was written, from how much, and what it cost."""
    chunks = f"{found.chunks:,} chunk{'s' if found.chunks != 1 else ''} of {found.chunk:,}"
    cost = f"{found.seconds:,.1f} s" + (f", {size(found.memory)} of memory" if found.memory is not None else "")
    path = escape(found.request.output)
    return [f"{path}  {found.matrices:,} matrices, {found.tokens:,} tokens in {chunks}, {cost}"]


def document(found: Computed) -> dict[str, Any]:
    """`--json`."""
    return {
        "schema_version": 1,
        "model": found.request.model,
        "output": found.request.output,
        "matrices": found.matrices,
        "tokens": found.tokens,
        "chunk": found.chunk,
        "chunks": found.chunks,
        "seconds": round(found.seconds, 3),
        "peak_memory_bytes": found.memory,
        "notes": list(found.notes),
    }
