"""Past weeks filled in, and the smaller jobs: what is served stays, nothing is done twice, who withdrew is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aap.config import Settings
from aap.consent.ledger.records import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose, spec
from aap.consent.service import open_desk, open_ledger
from aap.features.offline.build import built_as_of
from aap.features.retrieval import open_retrieval
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.jobs import runner
from aap.jobs.errors import PipelineError, StepFailed
from aap.jobs.publish_features import bring_online, build_features
from aap.jobs.reports.daily_aggregates import FEWEST, daily_aggregates
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from aap.modeling.train_and_promote import train_and_decide, training_settings
from pipelines import daily, monthly
from pipelines.backfill import replay, retrain_past
from tests.waiting import PATIENCE_S

FEW = ("popularity", "segments")

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", autouse=True)
def trained(shop: Settings) -> None:
    """Two models are enough here; each has a champion that knows everything up to now."""
    now = shop.now()
    build_features(shop, as_of=now)
    bring_online(shop, as_of=now)
    for name in FEW:
        registry = open_registry(shop)
        door, settings = open_retrieval(shop), training_settings(shop)
        outcome = train_and_decide(
            name, retrieval=door, registry=registry, ledger=open_ledger(shop), settings=settings, as_of=now
        )
        registry.promote(name, outcome.trained.version.version)


def test_weeks_filled_in_on_a_finished_shop_leave_champions_features_and_what_is_served_alone(shop: Settings) -> None:
    champions = {name: open_registry(shop).champion(name) for name in FEW}
    assert all(champions.values())
    built, client = built_as_of(features_folder(shop)), connect(shop)
    rows = {key: client.dump(key) for key in client.scan_iter("*:f:*")}
    assert rows
    result = retrain_past(shop, as_of=shop.now() - timedelta(days=21), models=FEW)
    assert set(result.steps) == {"features", *(f"train {name}" for name in FEW)}
    for name in FEW:
        found = result.steps[f"train {name}"].result
        assert not found["promoted"]
        assert "knows the days up to" in found["reasons"][0]
        assert open_registry(shop).champion(name) == champions[name]
    assert built_as_of(features_folder(shop)) == built
    assert {key: client.dump(key) for key in client.scan_iter("*:f:*")} == rows


def test_a_replay_makes_one_decision_a_model_a_week_and_does_no_week_twice(shop: Settings) -> None:
    first = shop.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=28)
    found = replay(shop, first=first, weeks=2, models=FEW)
    assert [set(week) for week in found.weeks.values()] == [set(FEW)] * 2
    assert all(told["reasons"] for week in found.weeks.values() for told in week.values())
    versions = len(open_registry(shop).versions("popularity"))
    again = replay(shop, first=first, weeks=3, models=FEW)
    assert list(again.weeks)[:2] == list(found.weeks)
    assert len(open_registry(shop).versions("popularity")) == versions + 1, "only the third week was done"
    page, picture, _ = again.pages
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert all(day in page.read_text() for day in again.weeks)


def test_a_week_that_has_not_come_is_refused(shop: Settings) -> None:
    with pytest.raises(PipelineError, match="has not come yet"):
        replay(shop, first=shop.now(), weeks=2)


def test_a_job_killed_within_a_step_goes_on_in_that_step_under_the_same_moment(shop: Settings) -> None:
    state = Layout(shop.home).run / "daily.json"
    code = (
        "import time; from aap.config import load_settings; from aap.project.loader import project_module\n"
        "s, job = load_settings(), project_module('pipelines.daily')\n"
        "job.write_daily = lambda *a, **k: time.sleep(600)\n"
        "job.run(s, as_of=s.now())"
    )
    environment = {**os.environ, "AAP_HOME": str(shop.home)}
    running = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and running.poll() is None:
        if state.is_file() and "import" in json.loads(state.read_text())["steps"]:
            break
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    left = json.loads(state.read_text())
    assert list(left["steps"]) == ["import"]
    result = daily.run(shop, as_of=shop.now())
    assert result.resumed
    assert (result.run_id, result.as_of) == (left["run_id"], left["as_of"])
    assert result.steps["import"].seconds == left["steps"]["import"]["seconds"], "not done again"
    assert not state.exists()


def test_a_step_that_fails_is_named(shop: Settings) -> None:
    def fails() -> dict[str, object]:
        raise ValueError("no ink")

    with pytest.raises(StepFailed, match=r"The job print stopped at step 'ink': no ink\. Run it again"):
        runner.run_job(shop, "print", as_of=shop.now(), steps_of=lambda *_: {"ink": fails})


def test_daily_aggregates_are_of_days_with_enough_customers_and_forget_who_withdraws(shop: Settings) -> None:
    daily.run(shop, as_of=shop.now())
    table = pq.read_table(Layout(shop.home).aggregates / "daily.parquet")
    before = table.to_pylist()
    assert table.num_rows > 300
    assert min(table["customers"].to_pylist()) >= FEWEST
    now = shop.now()
    desk = open_desk(shop)
    allowed = [
        key
        for key, held in sorted(desk.ledger.standing(in_force_at=now).items())
        if held[Purpose.ANALYTICS_REPORTING][0]
    ]
    who = Entry(allowed[0], Purpose.ANALYTICS_REPORTING, Status.WITHDRAWN, now, "test", "test")
    desk.record_many([who], received_at=now)
    after = daily_aggregates(shop, as_of=shop.now()).to_pylist()
    lines = [sum(day["lines"] for day in days) for days in (before, after)]
    assert lines[1] < lines[0]


def test_days_whose_purchases_are_past_their_time_stay_as_sums_over_enough_people(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, opened = Layout(shop.home).aggregates / "daily.parquet", shop.now()
    daily.run(shop, as_of=opened)
    before = pq.read_table(file).to_pylist()
    edge = (opened + timedelta(days=150) - spec(Purpose.ANALYTICS_REPORTING).retention).date()
    gone = [day for day in before if day["day"] < edge]
    assert gone
    for days in (150, 151):
        monkeypatch.setattr(Settings, "now", lambda _, days=days: opened + timedelta(days=days))
        done = daily.run(shop, as_of=shop.now())
        assert done.steps["retention"].result["deleted"]["product_purchased"] > 0
    after = pq.read_table(file).to_pylist()
    assert [day for day in after if day["day"] < edge] == gone
    assert [day["day"] for day in after] == [day["day"] for day in before]
    assert [d for d in daily_aggregates(shop, as_of=shop.now()).to_pylist() if d["day"] < edge] == []


def test_the_trend_report_shows_months_consent_and_versions(shop: Settings) -> None:
    result = monthly.run(shop, as_of=shop.now())
    page = Path(result.steps["trends"].result["page"]).read_text()
    assert "data:image/png" in page
    assert "2023-11" in page
    assert "marketing.retention" in page
    assert all(name in page for name in model_classes() if open_registry(shop).versions(name))
    assert "client-" not in page
