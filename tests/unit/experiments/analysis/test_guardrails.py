"""Guardrails, simulated: how often they stop what does no harm, and whether they stop what does.

Harmless is simulated at its hardest: both arms alike, and the limit exactly where they are. Each experiment is looked at
25 times, first when a hundred of each arm are in, and is stopped if any look says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from aap.events.archive import Archive
from aap.experiments.analysis.guardrails import Finding, check
from aap.experiments.analysis.outcomes import Exposed
from aap.experiments.analysis.plan import VERSION_GUARDRAILS, Guardrail, Plan
from aap.experiments.assignment.service_metrics import Vital
from aap.experiments.flags.definition import Flag

ARMS = ("a", "b")
FLAG = Flag("x", True, ARMS, "a", (("a", 50), ("b", 50)))
CAME = np.datetime64("2024-03-01", "us")
RUNS, LOOKS = 400, 25
WRONGLY = 0.05
NO_PEOPLE = Exposed([], *(np.empty(0, dtype=t) for t in (object, "datetime64[us]", object, "datetime64[us]")))


def plan_with(*guardrails: Guardrail) -> Plan:
    return Plan(error_rate=WRONGLY, guardrails=guardrails)


def look(plan: Plan, exposed: Exposed = NO_PEOPLE, *, day: int = 0, **vitals: Vital) -> list[Finding]:
    as_of = CAME.astype(datetime).replace(tzinfo=UTC) + plan.window + timedelta(days=day)
    return check(exposed, FLAG, plan, control="a", archive=Archive(Path("none")), vitals=vitals, as_of=as_of)


def stopped(plan: Plan, arms: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether any look at these calls (times in ms, failures) of the two arms breaks a guardrail."""
    sums = [
        [np.cumsum(v) for v in (failed, np.where(failed, 0, ms), np.where(failed, 0, ms) ** 2)] for ms, failed in arms
    ]
    for calls in np.linspace(100, len(arms[0][0]), LOOKS).astype(int):
        vitals = {
            arm: Vital(int(calls), int(e[calls - 1]), m[calls - 1], q[calls - 1])
            for arm, (e, m, q) in zip(ARMS, sums, strict=True)
        }
        if any(f.broken for f in look(plan, **vitals)):
            return True
    return False


def calls(random: np.random.Generator, count: int, *, fails: float, slow: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return slow * random.lognormal(1.0, 0.6, count), random.random(count) < fails


def test_of_four_hundred_variants_that_do_no_harm_at_most_five_in_a_hundred_are_stopped_for_their_calls() -> None:
    random = np.random.default_rng(4)
    plan = plan_with(Guardrail("latency_ms", may_rise=0.0), Guardrail("error_share", at_most=0.01))
    found = [stopped(plan, [calls(random, 3_000, fails=0.01) for _ in ARMS]) for _ in range(RUNS)]
    assert np.mean(found) <= WRONGLY


def test_a_canary_that_is_as_good_as_the_champion_is_not_stopped() -> None:
    random = np.random.default_rng(5)
    plan = plan_with(*VERSION_GUARDRAILS)
    found = [stopped(plan, [calls(random, 3_000, fails=0.002) for _ in ARMS]) for _ in range(RUNS)]
    assert sum(found) <= 1


@pytest.mark.parametrize(("fails", "slow"), [(0.05, 1.0), (0.002, 2.5)])
def test_a_canary_that_fails_or_is_slow_is_stopped(fails: float, slow: float) -> None:
    random = np.random.default_rng(6)
    plan = plan_with(*VERSION_GUARDRAILS)
    found = [
        stopped(plan, [calls(random, 3_000, fails=0.002), calls(random, 3_000, fails=fails, slow=slow)])
        for _ in range(100)
    ]
    assert np.mean(found) >= 0.95


@pytest.mark.full
def test_of_four_hundred_variants_that_do_no_harm_at_most_five_in_a_hundred_are_stopped_for_what_people_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random, count = np.random.default_rng(7), 2_000
    plan = plan_with(Guardrail("baskets", may_fall=0.0), Guardrail("spend", may_fall=0.0))
    days = np.sort(np.concatenate([np.zeros(200), np.arange(count - 200) * (LOOKS - 1) // (count - 201)])).astype(int)
    rows: dict[str, np.ndarray] = {}
    monkeypatch.setattr("aap.experiments.analysis.guardrails.outcomes", lambda _, metric, **__: rows[metric.name])

    def is_stopped() -> bool:
        taste, one = random.lognormal(0.0, 0.7, count), np.ones(count)
        baskets = [random.poisson(3 * taste).astype(float) for _ in range(2)]
        rows["baskets"] = np.stack([baskets[0], one, baskets[1], one], axis=1)
        rows["spend"] = rows["baskets"] * np.stack([random.lognormal(2.0, 0.5, count), one] * 2, axis=1)
        exposed = Exposed(
            [f"{i}" for i in range(count)],
            np.where(random.random(count) < 0.5, *ARMS).astype(object),
            CAME + days * np.timedelta64(1, "D"),
            np.full(count, FLAG.weights, dtype=object),
            np.full(count, CAME),
        )
        return any(f.broken for day in range(LOOKS) for f in look(plan, exposed, day=day))

    assert np.mean([is_stopped() for _ in range(RUNS)]) <= WRONGLY
