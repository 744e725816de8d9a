"""Canary: a challenger answers a share of people who allow it, and nobody is worse off for its faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from aap.consent.purposes import Purpose
from aap.experiments.assignment.service_metrics import read_vitals
from aap.experiments.errors import FlagsUnusable
from aap.experiments.flags.definition import read_flags
from aap.experiments.flags.kill_switch import stop
from aap.experiments.service import open_experiments
from aap.serving.context import Platform
from aap.serving.inference.predictor import FLAG
from tests.unit.serving.rollout.test_shadow import Rivals
from tests.unit.serving.shop_window import Habits, Spend, Street
from tests.waiting import until

RETENTION, PROFILED = Purpose.MARKETING_RETENTION, Purpose.PERSONALIZE_PROFILED
IMPROVE = Purpose.FUNCTIONAL_SERVICE_IMPROVE
PEOPLE = [f"p{i}" for i in range(40)]


class Broken(Spend):
    """Passes its smoke test, and fails real people."""

    def score(self, values: np.ndarray) -> np.ndarray:
        if values.any():
            raise ZeroDivisionError("no good")
        return super().score(values)


def version_flag(
    name: str = "churn_version", *, variants: tuple[str, ...] = ("champion", "challenger")
) -> dict[str, Any]:
    return {
        name: {
            "state": "ENABLED",
            "variants": {v: v for v in variants},
            "defaultVariant": variants[0],
            "targeting": {"fractional": [[v, 50] for v in variants]},
        }
    }


@pytest.fixture
def flagged(street: Street, tmp_path: Path) -> Callable[..., Platform]:
    """Makes a platform with flags of its own and challengers."""

    def make(flags: dict[str, Any], *, started: bool = False, **rivals: Any) -> Platform:
        folder = tmp_path / "settings"
        folder.mkdir()
        (folder / "flags.json").write_text(json.dumps({"flags": flags}))
        settings = street.settings.model_copy(update={"settings_dir": folder})
        registry = Rivals(street.shop.champions, rivals=rivals)
        made = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: registry)
        opened.append(made)
        if not started:
            made.models.refresh()
            made.challengers.refresh()
        return made

    return make


opened: list[Platform] = []


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    while opened:
        opened.pop().stop()


@pytest.fixture
def now(street: Street) -> datetime:
    return street.settings.now()


@pytest.fixture
def keys(street: Street, choose: Callable[..., None]) -> list[str]:
    for user in PEOPLE:
        choose(user, RETENTION, PROFILED, IMPROVE)
    found = [street.key(u) for u in PEOPLE]
    street.shelves.rows = {k: [40.0, 1.0] for k in found}
    street.shelves.purchases = {k: ["tea"] for k in found}
    return found


def test_a_share_of_people_is_answered_by_the_challenger_and_stays_with_it(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    platform = flagged(version_flag(), churn=Spend(shift=0.25))
    predictor = platform.stores().predictor
    answers = predictor.churn(keys, now=now)
    assert {a.model.version for a in answers} == {"1", "2"}
    for answer in answers:
        assert answer.experiment is not None
        assert answer.experiment.variant == ("challenger" if answer.model.version == "2" else "champion")
        assert answer.result is not None
        assert answer.result.probability == (0.65 if answer.model.version == "2" else 0.4)
    alone = [predictor.churn([key], now=now)[0] for key in keys]
    assert [a.model.version for a in alone] == [a.model.version for a in answers]
    platform.records.flush()
    rows = [row for f in platform.layout.predictions.rglob("*.parquet") for row in pq.read_table(f).to_pylist()]
    told = {row["prediction_id"]: (row["model_version"], row["variant"]) for row in rows}
    assert all(told[a.prediction_id][0] == a.model.version for a in answers)


def test_who_does_not_allow_experiments_is_answered_by_the_champion(
    street: Street, flagged: Callable[..., Platform], choose: Callable[..., None], now: datetime
) -> None:
    people = [f"q{i}" for i in range(20)]
    for user in people:
        choose(user, RETENTION)
    keys = [street.key(u) for u in people]
    street.shelves.rows = {k: [40.0, 1.0] for k in keys}
    answers = flagged(version_flag(), churn=Spend(shift=0.25)).stores().predictor.churn(keys, now=now)
    assert {(a.model.version, a.experiment) for a in answers} == {("1", None)}


def test_whom_a_challenger_fails_the_champion_answers_and_it_is_counted(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    platform = flagged(version_flag(), churn=Broken())
    answers = platform.stores().predictor.churn(keys, now=now)
    assert {a.model.version for a in answers} == {"1"}
    assert {a.result.probability for a in answers if a.result} == {0.4}
    platform.vitals.write(now=now)
    platform.vitals.close(now=now)
    found = read_vitals(platform.layout.vitals, flag="churn_version", until=now)
    assert (found["challenger"].errors, found["champion"].errors) == (1, 0)


def test_a_stopped_canary_is_the_champion_for_everybody_at_the_next_call(
    street: Street, flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    predictor = flagged(version_flag(), churn=Spend(shift=0.25)).stores().predictor
    assert {a.model.version for a in predictor.churn(keys, now=now)} == {"1", "2"}
    stop(street.client, "churn_version", reason="a test", by="a person", now=now)
    assert {a.model.version for a in predictor.churn(keys, now=now)} == {"1"}


def test_in_the_event_loop_features_and_variants_are_fetched_at_once(
    street: Street, flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    platform = flagged(version_flag(), churn=Spend(shift=0.25))
    before = platform.stores().predictor.churn(keys, now=now)
    street.client.config_resetstat()

    async def again() -> list[Any]:
        found = await platform.stores().at_hand.ask(
            "churn", lambda p: p.churn(keys, now=now), ahead=lambda p: p.reads_of_canary("churn", keys)
        )
        await platform.impatient.aclose()
        return found

    answers = asyncio.run(again())
    assert [a.model.version for a in answers] == [a.model.version for a in before]
    assert street.client.info("commandstats")["cmdstat_mget"]["calls"] == 1


def test_a_running_service_takes_up_a_flag_on_versions_and_its_challenger_without_a_restart(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    platform = flagged({}, started=True, churn=Spend(shift=0.25))
    platform.start()
    until(lambda: not platform.models.missing())
    assert {a.model.version for a in platform.stores().predictor.churn(keys, now=now)} == {"1"}
    assert not platform.challengers.versions(), "nobody wants one: it would only take memory"
    (platform.settings.settings_dir / "flags.json").write_text(json.dumps({"flags": version_flag()}))
    until(lambda: {a.model.version for a in platform.stores().predictor.churn(keys, now=now)} == {"1", "2"})


def test_a_canary_declared_without_a_plan_is_ended_by_its_challengers_failures_and_the_champion_answers_everybody(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    platform = flagged(version_flag(), churn=Broken())
    predictor = platform.stores().predictor
    for _ in range(120):
        predictor.churn(keys, now=now)
    platform.vitals.write(now=now)
    platform.vitals.close(now=now)
    (found,) = open_experiments(platform.settings).watch(as_of=now, now=now)
    assert found.stop is not None
    assert found.stop.reason == "error_share of challenger is 1 where control has 0, and may be at most 0.01."
    answers = predictor.churn(keys, now=now)
    assert {a.experiment.reason for a in answers if a.experiment} <= {"stopped"}
    assert {a.model.version for a in answers} == {"1"}


def test_without_a_challenger_there_is_no_canary(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    answers = flagged(version_flag()).stores().predictor.churn(keys, now=now)
    assert {(a.model.version, a.experiment) for a in answers} == {("1", None)}


def test_lists_of_a_canary_are_outside_of_the_experiment_on_strategies(
    flagged: Callable[..., Platform], keys: list[str], now: datetime
) -> None:
    flags = version_flag("recommendation_version") | version_flag(FLAG, variants=("buy_again", "discover"))
    answers = flagged(flags, recommendation=Habits()).stores().predictor.recommendations(keys, now=now)
    told = {(a.model.version, a.experiment.flag, a.experiment.variant) for a in answers if a.experiment}
    assert told == {("1", "recommendation_version", "champion"), ("2", "recommendation_version", "challenger")}
    assert {tuple(i.item_id for i in a.result) for a in answers if a.result} == {("tea",)}, "all by the usual strategy"


def test_a_flag_on_versions_has_the_two_variants(tmp_path: Path) -> None:
    for variants in (("old", "new"), ("challenger", "champion"), ("champion", "challenger", "third")):
        path = tmp_path / "flags.json"
        path.write_text(json.dumps({"flags": version_flag(variants=variants)}))
        with pytest.raises(FlagsUnusable, match="its variants are champion and challenger, the default champion"):
            read_flags(path)
