"""Guardrails: what a variant may not make worse. A broken one stops the flag by itself.

Broken means: for sure, at any look, with the error rate of the plan shared out over guardrails and variants. Metrics of
people count as in the readout; those of calls (`latency_ms`, `error_share`) come from the vitals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from aap.events.archive import Archive
from aap.experiments.analysis.metrics import METRICS
from aap.experiments.analysis.outcomes import Exposed, outcomes
from aap.experiments.analysis.plan import Guardrail, Plan
from aap.experiments.analysis.sequential import mixture, radius
from aap.experiments.analysis.treatment_effect import Curve, Moments, curve, moments
from aap.experiments.assignment.service_metrics import Vital
from aap.experiments.flags.definition import Flag

__all__ = ["Finding", "check"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One guardrail for one variant. Numbers are NaN while too few are in."""

    metric: str
    limit: str
    variant: str
    control: float
    treatment: float
    low: float
    high: float
    """Bounds of what the limit is about: the lift, or the level for `at_most`."""
    broken: bool

    @property
    def sentence(self) -> str:
        """What is broken, for a person."""
        return (
            f"{self.metric} of {self.variant} is {self.treatment:.4g} where control has {self.control:.4g}, and may be "
            f"{self.limit}."
        )


def check(
    exposed: Exposed,
    flag: Flag,
    plan: Plan,
    *,
    control: str,
    archive: Archive,
    vitals: Mapping[str, Vital],
    as_of: datetime,
) -> list[Finding]:
    """Every guardrail of the plan for every variant but control."""
    others = [v for v, _ in flag.split if v != control]
    error_rate = plan.error_rate / max(1, len(others) * len(plan.guardrails))
    found = []
    for guardrail in plan.guardrails:
        for variant in others:
            if guardrail.metric in METRICS:
                pairs = _people(exposed, guardrail, plan, arms=(control, variant), archive=archive, as_of=as_of)
            else:
                pairs = _calls(vitals, guardrail.metric, arms=(control, variant))
            found.append(_judged(guardrail, variant, pairs, error_rate=error_rate, plan=plan))
    return found


def _judged(
    guardrail: Guardrail, variant: str, pairs: list[tuple[Moments, Moments]], *, error_rate: float, plan: Plan
) -> Finding:
    enough = pairs and all(sum(p[arm].count[-1] for p in pairs) >= plan.fewest_people for arm in (0, 1))
    if not enough:
        nothing = math.nan
        return Finding(guardrail.metric, guardrail.limit, variant, nothing, nothing, nothing, nothing, False)
    made = curve(pairs, error_rate=error_rate, tightest_at=plan.tightest_at, adjust=guardrail.metric in METRICS)
    low, high = _bounds(guardrail, made, pairs, error_rate=error_rate, plan=plan)
    if guardrail.may_fall is not None:
        broken = high < -guardrail.may_fall
    elif guardrail.may_rise is not None:
        broken = low > guardrail.may_rise
    else:
        broken = low > (guardrail.at_most or 0.0)
    control, treatment = float(made.control[-1]), float(made.treatment[-1])
    return Finding(guardrail.metric, guardrail.limit, variant, control, treatment, low, high, bool(broken))


def _bounds(
    guardrail: Guardrail, made: Curve, pairs: list[tuple[Moments, Moments]], *, error_rate: float, plan: Plan
) -> tuple[float, float]:
    if guardrail.at_most is None:
        return float(made.lift_low[-1]), float(made.lift_high[-1])
    # the level of the variant alone: its own average, whatever control has
    own = [treatment for _, treatment in pairs]
    calls = np.array([sum(m.count[-1] for m in own)])
    spread = sum(m.count[-1] * m.covariance[-1, 0, 0] for m in own) / calls**2
    reach = radius(
        spread, calls, error_rate=error_rate, rho2=mixture(error_rate=error_rate, tightest_at=plan.tightest_at)
    )
    level = float(made.treatment[-1])
    return level - float(reach[0]), level + float(reach[0])


def _people(
    exposed: Exposed, guardrail: Guardrail, plan: Plan, *, arms: tuple[str, str], archive: Archive, as_of: datetime
) -> list[tuple[Moments, Moments]]:
    ready = exposed.times + np.timedelta64(plan.window) <= np.datetime64(as_of.replace(tzinfo=None), "us")
    if not ready.any():
        return []
    before = timedelta(days=plan.covariate_days)
    asked = METRICS[guardrail.metric]
    rows = outcomes(exposed, asked, archive=archive, window=plan.window, before=before, as_of=as_of)
    found = []
    for written in dict.fromkeys(exposed.splits.tolist()):
        here = [rows[ready & (exposed.splits == written) & (exposed.variants == arm)] for arm in arms]
        if all(len(part) for part in here):
            control, treatment = (moments(part, np.array([len(part)])) for part in here)
            found.append((control, treatment))
    return found


def _calls(vitals: Mapping[str, Vital], name: str, *, arms: tuple[str, str]) -> list[tuple[Moments, Moments]]:
    made = [_of_calls(vitals.get(arm, Vital()), name) for arm in arms]
    return [(made[0], made[1])] if made[0] is not None and made[1] is not None else []


def _of_calls(vital: Vital, name: str) -> Moments | None:
    """Moments of a measure of calls, from its sums."""
    if name == "error_share":
        count, total, squares = vital.calls, float(vital.errors), float(vital.errors)
    else:
        count, total, squares = vital.calls - vital.errors, vital.ms, vital.ms_squared
    if count < 2:
        return None
    mean, covariance = np.array([[total / count, 1.0, 1.0, 1.0]]), np.zeros((1, 4, 4))
    covariance[0, 0, 0] = max(0.0, squares - total * total / count) / (count - 1)
    return Moments(np.array([float(count)]), mean, covariance)
