"""The watch on a real log: what it gives an alert for, of whom, and what it keeps silent about."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from aap.cli.main import app
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.features.datasets import TrainingFrame
from aap.features.online.reader import to_micros
from aap.infra.parquet_writer import Batches
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.jobs.streaming.alerts import SCHEMA, Alert, read
from aap.modeling.errors import StoreUnavailable
from features import SERVICES
from models.anomaly.customers import Anomaly, AnomalyParameters
from models.anomaly.transaction_features import LINE_FEATURES, SESSION_FEATURES, Doings
from models.anomaly.transactions import EventAnomaly, SessionAnomaly
from pipelines.anomaly_scoring.scorer import Champions, Watch
from tests.parity.live_shop import LiveShop, purchase
from tests.unit.features.store_room import AS_OF, StoreRoom
from tests.unit.modeling.shop import manifest

PARAMETERS = AnomalyParameters(28, trees=50, rows_per_tree=128, false_alarm_budget=0.001, min_rows=50)
OF_PEOPLE = next(service.features for service in SERVICES if service.name == "anomaly")


def fitted(kind, features):
    """A model of one feature after another: values around 500, minor units or not."""
    values = np.random.default_rng(3).gamma(8.0, 60.0, size=(400, len(features)))
    data = pd.DataFrame(values, columns=list(features)).assign(user_key="k", as_of=pd.Timestamp(AS_OF))
    frame = TrainingFrame(data, features, manifest("anomaly", features, as_of=AS_OF, rows=400, root=""))
    return kind.fit(frame, parameters=PARAMETERS, seed=1)


@pytest.fixture(scope="module")
def models():
    found = {
        "event": fitted(EventAnomaly, LINE_FEATURES),
        "session": fitted(SessionAnomaly, SESSION_FEATURES),
        "user": fitted(Anomaly, OF_PEOPLE),
    }
    return {kind: ("7", dataclasses.replace(model, threshold=0.0)) for kind, model in found.items()}


@pytest.fixture
def shop(room: StoreRoom) -> LiveShop:
    room.put_online(Purpose.ESSENTIAL_FRAUD_DETECTION)
    return LiveShop(room)


class Registry:
    """A registry that is down."""

    def champion(self, name: str):
        raise StoreUnavailable("down")

    def load(self, version):
        raise StoreUnavailable("down")


def watch_of(shop: LiveShop, folder: Path, held) -> Watch:
    kept = Batches(folder, SCHEMA, every_s=3600)
    champions = Champions(Registry(), dict(held))
    client = connect(shop.room.settings)
    return Watch(client, shop.room.door(), champions, kept.add, kept.flush, lambda: shop.now)


def test_every_line_session_and_person_above_the_threshold_gets_one_alert_that_says_why(shop, models, tmp_path):
    watch = watch_of(shop, tmp_path / "alerts", models)
    assert watch.step() == 0  # what happened before it began is not looked at
    shop.collect(*(purchase(n, "customer-1", shop.now, basket_id="one") for n in range(3)))
    assert watch.step() > 0
    alerts = read(tmp_path / "alerts")
    assert sorted(a["kind"] for a in alerts) == ["event", "event", "event", "session", "user"]
    assert {a["user_key"] for a in alerts} == {shop.room.key("customer-1")}
    assert {a["about"] for a in alerts if a["kind"] == "event"} == {f"web live-{n}" for n in range(3)}
    session = next(a for a in alerts if a["kind"] == "session")
    assert session["about"] == "one"
    values = Doings.sessions(
        {"basket_id": ["one"] * 3, "item_id": ["i0", "i1", "i2"], "category": [None] * 3, "quantity": [1, 2, 3],
         "amount": [100, 201, 302]},
        np.full(3, to_micros(shop.now)), people=["k"] * 3,
    ).values  # fmt: skip
    assert session["score"] == models["session"][1].score(values)[0]
    assert session["drivers"] == models["session"][1].drivers(values)[0]
    assert watch.step() == 0
    assert read(tmp_path / "alerts", most=2) == alerts[:2]


def test_alerts_are_listed_by_the_command_without_naming_anybody(shop, models, monkeypatch):
    settings = shop.room.settings
    monkeypatch.setenv("AAP_HOME", str(settings.home))
    listed = CliRunner().invoke(app, ["models", "alerts"])
    assert "No alerts" in listed.stdout
    watch = watch_of(shop, Layout(settings.home).alerts, models)
    watch.step()
    shop.collect(purchase(1, "customer-1", shop.now))
    watch.step()
    listed = CliRunner().invoke(app, ["models", "alerts", "--json"])
    found = json.loads(listed.stdout.splitlines()[-1])
    assert {alert["kind"] for alert in found} == {"event", "session", "user"}
    assert "customer-1" not in listed.stdout


def test_who_objects_is_not_looked_at(shop, models, tmp_path):
    watch = watch_of(shop, tmp_path / "alerts", models)
    watch.step()
    shop.collect(purchase(1, "customer-1", shop.now), purchase(2, "customer-2", shop.now))
    fraud = Purpose.ESSENTIAL_FRAUD_DETECTION
    shop.room.say("customer-1", fraud, Status.WITHDRAWN, at=shop.now)
    watch.step()
    assert {a["user_key"] for a in read(tmp_path / "alerts")} == {shop.room.key("customer-2")}


def test_a_restart_goes_on_where_it_was_and_an_alert_given_twice_is_one(shop, models, tmp_path):
    first = watch_of(shop, tmp_path / "alerts", models)
    first.step()
    shop.collect(purchase(1, "customer-1", shop.now))
    again = watch_of(shop, tmp_path / "alerts", models)
    again.step()
    once = read(tmp_path / "alerts")
    partition = int(shop.room.key("customer-1")[:8], 16) % 4
    connect(shop.room.settings).set(f"{{log:{partition}}}:watched", "0-0")
    again.step()
    assert [a["alert_id"] for a in read(tmp_path / "alerts")] == [a["alert_id"] for a in once] != []


def test_alerts_that_cant_be_written_hold_the_place_in_the_log(shop, models, tmp_path):
    watch = watch_of(shop, tmp_path / "alerts", models)
    watch.step()
    shop.collect(purchase(1, "customer-1", shop.now))
    watch.write, write = (lambda: False), watch.write
    assert watch.step() == 0
    watch.write = write
    assert watch.step() > 0
    assert len(read(tmp_path / "alerts")) == 3


def test_a_champion_of_other_features_scores_nobody(shop, models, tmp_path):
    version, model = models["user"]
    other = {"user": (version, dataclasses.replace(model, features=OF_PEOPLE[::-1]))}
    watch = watch_of(shop, tmp_path / "alerts", other)
    watch.step()
    shop.collect(purchase(1, "customer-1", shop.now))
    assert watch.step() > 0
    assert read(tmp_path / "alerts") == []


def test_without_a_model_nothing_is_read_and_a_registry_that_is_down_changes_nothing(shop, models, tmp_path):
    watch = watch_of(shop, tmp_path / "alerts", {})
    assert watch.step() == 0
    watch.champions.held.update(models)
    watch.champions.refresh()
    assert watch.champions.held == models


def test_alerts_are_read_newest_first():
    folder = Path("/nowhere")
    assert read(folder) == []
    at = datetime(2024, 1, 1, tzinfo=UTC)
    one = Alert(at, "event", "k", "a b", at, 0.9, 0.5, ("x",), "event_anomaly", "1", 3)
    assert one.alert_id == dataclasses.replace(one, time=at + timedelta(days=1), score=0.7).alert_id
    assert one.alert_id != dataclasses.replace(one, about="a c").alert_id
