"""What should be said about a bundle, though nothing forbids it."""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.bundles.paths import alike_without_case, impossible_on_windows
from modelkit.operations.bundle_plan import Plan

FEW = 0.01
"""The share of the bytes below which a base is hardly worth to be asked for on the other side."""


def notes(plan: Plan) -> Iterator[str]:
    """Names that not every system can restore, and a base with which the source has next to nothing in common."""
    names = [*(file.path for file in plan.tree.files), *plan.tree.folders]
    pairs, odd = alike_without_case(names), impossible_on_windows(names)
    if pairs:
        first, second = pairs[0]
        yield (
            f"'{first}' and '{second}'{_more(pairs)} are one name where case does not count (Windows, macOS): "
            "the bundle cannot be unpacked whole there"
        )
    if odd:
        yield f"'{odd[0]}'{_more(odd)} is no name that Windows can have: the bundle cannot be unpacked whole there"
    if plan.base is not None:
        table = plan.cuts.table
        shared = int(table["length"][table["base"] > 0].sum(dtype="u8"))
        if shared <= FEW * plan.tree.size:
            yield (
                f"--base {plan.request.base}: only {shared:,} of {plan.tree.size:,} bytes have a counterpart there "
                "(a tensor of this name and size, a file of this path and size); the receiver needs it all the same"
            )


def _more(found: list[tuple[str, str]] | list[str]) -> str:
    return f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
