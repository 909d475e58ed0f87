"""What `verify --seal` found, as lines for a person and as a document for a program."""

from __future__ import annotations

from typing import Any

from modelkit.operations.seal import Comparison
from modelkit.report.text import table
from modelkit.report.verification import gate_entry, judgement_lines, number

VALUES = {
    True: "the ones that were sealed (the model digests are the same)",
    False: "others than those that were sealed (the model digests differ)",
    None: "not compared: there is no digest of what one of the two stores",
}


def comparison_lines(found: Comparison) -> list[str]:
    """The measurement and the gate's answer."""
    low, high = found.kl_interval
    words = "rounding explains it" if found.behaves_the_same else f"rounding explains {found.seal.limit:.1e}"
    rows = [
        ("sealed", f"{found.seal.name}, {found.seal.family}, {found.seal.layers} layers"),
        ("tokens", found.seal.origin),
        ("weights", VALUES[found.same_values]),
        ("log p", f"{found.deviation:.1e} nats apart (root mean square), {found.largest:.1e} at most: {words}"),
        ("KL", f"mean {found.kl_mean:.2e} ({low:.2e} to {high:.2e}) nats"),
        ("top-1", f"{found.top1:.2%} agree"),
    ]
    return [*table(rows), "", *judgement_lines(found.judgement)]


def comparison_document(found: Comparison, bundle: str, model: str) -> dict[str, Any]:
    """`verify --seal --json`."""
    low, high = found.kl_interval
    return {
        "schema_version": 1,
        "bundle": bundle,
        "model": model,
        "sealed": {"name": found.seal.name, "family": found.seal.family, "model_digest": found.seal.digest or None},
        "tokens": found.positions,
        "tokens_from": found.seal.origin,
        "same_values": found.same_values,
        "log_probability": {"rms": found.deviation, "max": found.largest, "limit": found.seal.limit},
        "kl": {"mean": found.kl_mean, "interval_95": [number(low), number(high)]},
        "top1_agreement": found.top1,
        "gate": gate_entry(found.judgement),
    }
