"""What `verify` found, as lines for a person and as a document for a program."""

from __future__ import annotations

import math
from typing import Any

from modelkit.metrics.weight_errors import WeightError
from modelkit.operations.gates import Judgement
from modelkit.operations.verify import Disagreement, LayerError, Request, Verification
from modelkit.operations.verify_plan import VerifyPlan
from modelkit.report.text import escape, seconds, size, table

MOST = 5  # layers, tensors and disagreements that are listed
CONTEXT = 12  # tokens before a disagreement that are shown


def verification_lines(found: Verification, request: Request) -> list[str]:
    """The measurement in short: what differs, by how much, and where it hurts most."""
    low, high = found.kl_interval
    tail = f"  p99.9 {found.kl_tail:.2e}" if found.kl_tail is not None else ""
    mean = f"{found.kl_mean:.2e} ({low:.2e} to {high:.2e})"
    before, after = found.perplexities
    exact = "identical, bit for bit" if found.identical else f"differ by up to {found.logit_error:.1e} of the largest"
    rows = [
        ("tokens", found.sample.origin),
        ("logits", exact),
        ("KL", f"mean {mean}  median {found.kl_median:.2e}  max {found.kl_largest:.2e}{tail}  nats"),
        ("top-1", f"{found.top1:.2%} agree, {found.top5:.2%} of the five best"),
        ("perplexity", f"{before:.4g} -> {after:.4g}"),
    ]  # fmt: skip
    if found.memory is not None:
        rows.append(("memory", f"{size(found.memory)} at most"))
    lines = table(rows)
    if not found.identical:
        lines += ["", *layer_lines(found), *weight_lines(found), *disagreement_lines(found)]
    return lines + ([] if found.judgement is None else ["", *judgement_lines(found.judgement)])


def layer_lines(found: Verification) -> list[str]:
    """The layers that hurt most, and the last one."""
    chosen = sorted({layer.layer for layer in worst_layers(found)} | {len(found.layers) - 1})
    head = ("layer", "relative error", "cosine", "of the worst token")
    rows: list[tuple[str, ...]] = []
    for number in chosen:
        one = found.layers[number]
        row = (
            str(one.layer),
            f"{one.relative:.2e}",
            f"{one.cosine:.6f}",
            f"{one.worst_cosine:.6f} at {one.worst_token}",
        )
        rows.append(row if one.local is None else (*row, f"{one.local:.2e}"))
    if found.layers[0].local is not None:
        head = (*head, "own error")  # type: ignore[assignment]
    return table([head, *rows])


def worst_layers(found: Verification) -> list[LayerError]:
    """By their own error where it was measured, else by how much the error grows in them."""

    def harm(layer: LayerError) -> float:
        if layer.local is not None:
            return layer.local
        return layer.relative - (found.layers[layer.layer - 1].relative if layer.layer else 0.0)

    return sorted(found.layers, key=harm, reverse=True)[:MOST]


def weight_lines(found: Verification) -> list[str]:
    """The tensors that differ most."""
    head = ("tensor", "relative error", "worst run", "where")
    rows = [
        (error.tensor, f"{error.relative:.2e}", f"{error.worst:.2e}", f"row {error.row}, column {error.column}")
        for error in found.weights[:MOST]
    ]
    more = len(found.weights) - MOST
    return ["", *table([head, *rows]), *([f"... and {more} more tensors differ"] if more > 0 else [])]


def disagreement_lines(found: Verification) -> list[str]:
    """Positions with another best token, in their context."""
    places = found.disagreements(MOST)
    if not places:
        return []
    lines = ["", "most different predictions"]
    for one in places:
        before, following = found.sample.around(one.position, CONTEXT)
        words = [found.sample.piece([number]) or f"#{number}" for number in (one.original, one.converted)]
        text = f"{escape(repr(before))} then {escape(repr(words[0]))}, converted {escape(repr(words[1]))}"
        follows = f" (the text has {escape(repr(following))})" if following else ""
        lines.append(f"  at {one.position}, KL {one.kl:.1e}: {text}{follows}")
    return lines


def judgement_lines(judgement: Judgement) -> list[str]:
    """The gate's answer, then its reasons."""
    lines = [f"gate {judgement.gate.name}: {judgement.answer}"]
    shown = [f"  {escape(reason)}" for reason in judgement.reasons[:MOST]]
    more = len(judgement.reasons) - MOST
    return lines + shown + ([f"  ... and {more} more reasons"] if more > 0 else [])


def judgement_line(judgement: Judgement) -> str:
    """The same in one line: `gate int8: failed (mean KL ...)`."""
    more = len(judgement.reasons) - 1
    reasons = judgement.reasons[:1] + ((f"{more} more",) if more > 0 else ())
    return f"gate {judgement.gate.name}: {judgement.answer}" + (f" ({'; '.join(reasons)})" if reasons else "")


def verification_document(found: Verification, request: Request) -> dict[str, Any]:
    """`verify --json`."""
    before, after = found.perplexities
    return {
        "schema_version": 1,
        "original": request.original,
        "converted": request.converted,
        "tokens": found.sample.tokens,
        "tokens_from": found.sample.origin,
        "identical": found.identical,
        "logit_error": number(found.logit_error),
        "kl": divergence_entry(found),
        "top1_agreement": found.top1,
        "top5_agreement": found.top5,
        "perplexity": {"original": number(before), "converted": number(after)},
        "layers": [layer_entry(one) for one in found.layers],
        "worst_layers": [one.layer for one in worst_layers(found)] if not found.identical else [],
        "tensors": [tensor_entry(error) for error in found.weights],
        "disagreements": [disagreement_entry(found, one) for one in found.disagreements(MOST * 4)],
        "peak_memory_bytes": found.memory,
        "gate": None if found.judgement is None else gate_entry(found.judgement),
    }


def divergence_entry(found: Verification) -> dict[str, Any]:
    """KL in nats."""
    return {
        "mean": number(found.kl_mean),
        "interval_95": [number(value) for value in found.kl_interval],
        "median": number(found.kl_median),
        "p99_9": None if found.kl_tail is None else number(found.kl_tail),
        "max": number(found.kl_largest),
    }


def layer_entry(one: LayerError) -> dict[str, Any]:
    """States after one layer."""
    return {
        "layer": one.layer,
        "relative_error": number(one.relative),
        "cosine_mean": number(one.cosine),
        "cosine_min": number(one.worst_cosine),
        "worst_token": one.worst_token,
        "local_relative_error": None if one.local is None else number(one.local),
    }


def tensor_entry(error: WeightError) -> dict[str, Any]:
    """A tensor that differs."""
    return {
        "name": error.tensor,
        "relative_error": number(error.relative),
        "worst_run_error": number(error.worst),
        "typical_run_error": number(error.typical),
        "row": error.row,
        "column": error.column,
        "finite": error.finite,
    }


def disagreement_entry(found: Verification, one: Disagreement) -> dict[str, Any]:
    """A position with another best token."""
    return {
        "position": one.position,
        "context": found.sample.around(one.position, CONTEXT)[0],
        "original_token": one.original,
        "converted_token": one.converted,
        "kl": number(one.kl),
    }


def gate_entry(judgement: Judgement) -> dict[str, Any]:
    """The gate's answer."""
    return {"name": judgement.gate.name, "answer": judgement.answer, "reasons": list(judgement.reasons)}


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def plan_lines(plan: VerifyPlan) -> list[str]:
    """`verify --plan`."""
    return table([
        ("tokens", f"{plan.tokens:,} through {plan.layers} layers of each model"),
        ("time", f"{seconds(plan.seconds)} of processor time, measured on samples"),
        ("memory", f"{size(plan.memory)} at most"),
        ("reading", f"{size(plan.reading)}"),
    ])  # fmt: skip


def plan_document(plan: VerifyPlan) -> dict[str, Any]:
    """`verify --plan --json`."""
    return {
        "schema_version": 1,
        "tokens": plan.tokens,
        "layers": plan.layers,
        "cpu_seconds_estimate": round(plan.seconds, 3),
        "memory_bytes": plan.memory,
        "read_bytes": plan.reading,
    }
