"""The readout of an experiment: did a variant do better than control, and may anybody say so yet?

First the split is checked: people that are not split as intended are compared with somebody else's, and no verdict is
given. Then each variant is compared with control, at up to sixty looks over time; the interval holds at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from aap.events.archive import Archive
from aap.experiments.analysis.guardrails import Finding
from aap.experiments.analysis.metrics import metric
from aap.experiments.analysis.outcomes import Exposed, outcomes
from aap.experiments.analysis.plan import Plan
from aap.experiments.analysis.sequential import mixture, radius, read_split, split_evidence
from aap.experiments.analysis.treatment_effect import Curve, Moments, curve, moments
from aap.experiments.flags.definition import Flag
from aap.experiments.flags.kill_switch import Stop

__all__ = ["SPLIT_ERROR_RATE", "Comparison", "Readout", "Split", "Verdict", "check_split", "compare", "judge"]

LOOKS = 60
SPLIT_ERROR_RATE = 0.001
"""The chance, over all looks together, to call a sound split a mismatch. A mismatch costs an experiment, so it is rare."""


class Verdict(StrEnum):
    """What may be said."""

    BLOCKED = "blocked"
    """People aren't split as intended: nothing may be said."""
    HARMFUL = "harmful"
    """A guardrail is broken for sure."""
    TOO_EARLY = "too_early"
    UNDECIDED = "undecided"
    BETTER = "better"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Split:
    """Whether people are in the variants as intended. `p_value` may be looked at at any time."""

    sound: bool
    p_value: float
    people: dict[str, int]
    expected: dict[str, float]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One variant against control, over time."""

    variant: str
    curve: Curve
    verdict: Verdict
    detectable: float
    """The lift that would be found with 80 % probability at one look now; NaN while it can't be said."""


@dataclass(frozen=True, slots=True)
class Readout:
    """Everything a person needs to decide, and the page to show them."""

    flag: Flag
    plan: Plan
    control: str
    as_of: datetime
    split: Split
    times: list[datetime]
    """The looks."""
    comparisons: list[Comparison]
    guardrails: list[Finding]
    excluded: dict[str, int]
    first_exposure: datetime | None = None
    stop: Stop | None = None
    stopped_now: bool = False
    share_before: int | None = None
    share: int | None = None
    """Percent of people taken in, before and after this look; None where nothing grows."""
    held_by: str = ""
    """Why the share may not grow now, as a sentence."""


def check_split(exposed: Exposed) -> Split:
    """Compare how many people are in each variant with the splits they were assigned under."""
    people = {str(v): int(np.sum(exposed.variants == v)) for v in sorted(set(exposed.variants.tolist()))}
    expected: dict[str, float] = dict.fromkeys(people, 0.0)
    evidence, why = 0.0, ""
    for written in sorted(set(exposed.splits.tolist())):
        here = exposed.variants[exposed.splits == written]
        weights = read_split(written)
        stray = sorted(set(here.tolist()) - set(weights))
        if stray or not weights:
            why = f"{len(here)} people were exposed under the split {written or 'unknown'!r}, which can't be checked."
            continue
        names, total = list(weights), sum(weights.values())
        for name in names:
            expected[name] = expected.get(name, 0.0) + len(here) * weights[name] / total
        counts = np.array([np.sum(here == name) for name in names])
        evidence += float(split_evidence(counts, np.array([weights[n] for n in names])))
    p_value = float(min(1.0, np.exp(-evidence)))
    if not why and p_value <= SPLIT_ERROR_RATE:
        told = ", ".join(f"{n} {people.get(n, 0):,} instead of {e:,.0f}" for n, e in sorted(expected.items()))
        why = f"People are not split as intended ({told}): find out why before believing any difference."
    return Split(not why, p_value, people, expected, why)


def compare(
    exposed: Exposed, flag: Flag, plan: Plan, *, control: str, archive: Archive, as_of: datetime
) -> tuple[list[datetime], list[Comparison]]:
    """Each variant against control at each look; the error rate is shared out over the variants."""
    times = _looks(exposed, window=plan.window, as_of=as_of)
    if not times:
        return [], []
    before = timedelta(days=plan.covariate_days)
    rows = outcomes(exposed, metric(plan.metric), archive=archive, window=plan.window, before=before, as_of=as_of)
    others = [v for v, weight in flag.split if v != control]
    error_rate = plan.error_rate / max(1, len(others))
    ready = exposed.times + np.timedelta64(plan.window)
    looks = np.array([np.datetime64(t.replace(tzinfo=None), "us") for t in times])
    found = []
    for variant in others:
        strata = _strata(exposed, rows, ready, looks, arms=(control, variant))
        if not strata:
            continue
        made = curve(strata, error_rate=error_rate, tightest_at=plan.tightest_at, adjust=plan.covariate_days > 0)
        fewest = min(int(sum(s[arm].count[-1] for s in strata)) for arm in (0, 1))
        verdict = _verdict(made, fewest >= plan.fewest_people)
        found.append(Comparison(variant, made, verdict, _detectable(made, error_rate, plan)))
    return times, found


def judge(split: Split, guardrails: list[Finding], comparison: Comparison) -> Verdict:
    """What may be said of one variant, all things considered."""
    if any(f.broken and f.variant == comparison.variant for f in guardrails):
        return Verdict.HARMFUL
    return comparison.verdict if split.sound else Verdict.BLOCKED


def _looks(exposed: Exposed, *, window: timedelta, as_of: datetime) -> list[datetime]:
    """Up to sixty moments, evenly spaced, from when the first person counts until now."""
    if exposed.first is None or exposed.first + window > as_of:
        return []
    first = exposed.first + window
    count = int(min(LOOKS, max(1, (as_of - first) // timedelta(hours=1))))
    return [as_of - (as_of - first) * (count - 1 - k) / max(1, count) for k in range(count)]


def _strata(
    exposed: Exposed, rows: np.ndarray, ready: np.ndarray, looks: np.ndarray, *, arms: tuple[str, str]
) -> list[tuple[Moments, Moments]]:
    """Moments of both arms at each look, of each split that people were assigned under."""
    found = []
    for written in dict.fromkeys(exposed.splits.tolist()):
        places = [np.flatnonzero((exposed.splits == written) & (exposed.variants == arm)) for arm in arms]
        counts = [np.searchsorted(ready[place], looks, side="right") for place in places]
        if all(count[-1] for count in counts):
            control, treatment = (moments(rows[p], c) for p, c in zip(places, counts, strict=True))
            found.append((control, treatment))
    return found


def _verdict(made: Curve, enough: bool) -> Verdict:
    if not enough or not np.isfinite(made.low[-1]):
        return Verdict.TOO_EARLY
    if made.low[-1] > 0:
        return Verdict.BETTER
    return Verdict.WORSE if made.high[-1] < 0 else Verdict.UNDECIDED


def _detectable(made: Curve, error_rate: float, plan: Plan) -> float:
    """Radius plus 0.84 standard errors, the 80 % point of a normal, as a share of control."""
    rho2 = mixture(error_rate=error_rate, tightest_at=plan.tightest_at)
    reach = radius(made.variance[-1:], made.people[-1:], error_rate=error_rate, rho2=rho2)[0]
    return float((reach + 0.84 * np.sqrt(made.variance[-1])) / abs(made.control[-1])) if made.control[-1] else np.nan
