"""What a conversion must keep to count as good: limits that a measurement passes, fails or leaves open.

    gate       mean KL   top-1    what it is for
    lossless   0         all      another container or layout: logits of the same bits
    cast       1e-3               f32 -> bf16, f16
    int8       5e-3      95 %     q8_0, int8 groups
    q6         0.02      93 %
    q5         0.05      90 %
    int4       0.1       85 %     q4_k_m, q4_0, int4 groups

KL in nats, mean over positions with its 95 % interval; an interval that straddles the limit decides
nothing. Beside them stands a limit for local damage: no run of neighbouring weights may be further off
than quantisation of that width explains (see `metrics/weight_errors.py`), whatever KL says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modelkit.errors import BadRequest
from modelkit.metrics.weight_errors import WeightError

if TYPE_CHECKING:
    from modelkit.operations.verify import Verification

EXCESS = 20.0
"""A run this many times worse than the typical one is damage; rounding and blocks of 32 stay below 5, groups of 64 and
whole rows below 15: SmolLM2 has outliers of 28 deviations, and their neighbours have the steps of their group."""

Answer = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits; None = not asked for. `worst_run` is a share of the weights' own size."""

    name: str
    max_kl: float | None = None
    min_top1: float | None = None
    worst_run: float | None = None
    identical: bool = False


GATES = {
    gate.name: gate
    for gate in (
        Gate("lossless", identical=True),
        Gate("cast", 1e-3, None, 0.05),
        Gate("int8", 5e-3, 0.95, 0.25),
        Gate("q6", 0.02, 0.93, 0.35),
        Gate("q5", 0.05, 0.90, 0.5),
        Gate("int4", 0.1, 0.85, 0.8),
    )
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's answer, and a reason for every limit that was not clearly kept."""

    gate: Gate
    answer: Answer
    reasons: tuple[str, ...] = ()


def choose(name: str | None, max_kl: float | None, min_top1: float | None) -> Gate | None:
    """The gate that the caller meant; None when nothing was asked. Raises BadRequest."""
    if name is None:
        if max_kl is None and min_top1 is None:
            return None
        for option, limit in (("--max-kl", max_kl), ("--min-top1", min_top1)):
            if limit is not None and not limit >= 0:  # NaN would let everything pass
                raise BadRequest(f"{option} {limit}: is no limit", "give a number from 0 on")
        return Gate("custom", max_kl, min_top1)
    if name not in GATES:
        raise BadRequest(f"no gate is called '{name}'", f"known are: {', '.join(GATES)}")
    if max_kl is not None or min_top1 is not None:
        raise BadRequest("--gate and --max-kl or --min-top1 exclude each other", "give one of the two")
    return GATES[name]


def judge(gate: Gate, found: Verification) -> Judgement:
    """Hold a measurement against a gate."""
    failed = list(_damage(gate, found))
    if not found.finite:
        failed.append("a logit is not a finite number")
    if gate.identical and not found.identical:
        failed.append(f"logits differ by up to {found.logit_error:.1e} of the largest one; lossless means not one bit")
    if gate.min_top1 is not None and found.top1 < gate.min_top1:
        failed.append(f"top-1 agreement {found.top1:.1%} is below {gate.min_top1:.1%}")
    low, high = found.kl_interval
    if gate.max_kl is not None and found.finite and low > gate.max_kl:
        failed.append(f"mean KL {found.kl_mean:.2e} ({low:.2e} to {high:.2e}) is above {gate.max_kl:g}")
    if failed:
        return Judgement(gate, "failed", tuple(failed))
    if gate.max_kl is not None and high > gate.max_kl:
        reason = f"mean KL {found.kl_mean:.2e} ({low:.2e} to {high:.2e}) straddles {gate.max_kl:g}: use a longer text"
        return Judgement(gate, "inconclusive", (reason,))
    return Judgement(gate, "passed")


def _damage(gate: Gate, found: Verification) -> list[str]:
    """A sentence for each tensor that is broken, the worst first; for the lossless gate for each that differs."""
    reasons = []
    for error in found.weights:
        where = f"row {error.row}, columns {error.column} and on"
        if not error.finite:
            reasons.append(f"'{error.tensor}' has weights that are no finite numbers: {where}")
        elif gate.identical:
            reasons.append(f"'{error.tensor}' differs by up to {error.worst:.1e} of its size: {where}")
        elif gate.worst_run is not None and _is_local(error, gate.worst_run):
            reasons.append(f"'{error.tensor}' is damaged: off by {error.worst:.0%} of its size at {where}")
    return reasons


def _is_local(error: WeightError, limit: float) -> bool:
    """Whether one run is further off than the width explains, or stands far out among the tensor's runs."""
    return error.worst > limit or (error.worst > limit / 5 and error.excess > EXCESS)
