"""Feast's own commands and API over our stores: they work, and none of them gets around consent."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.data_source import PushMode

from aap.consent.policy import Status as Choice
from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.errors import FeatureError, NoPurposeInForce, UnusableLabels
from aap.features.feast.objects import feast_objects
from aap.features.feast.store import apply, materialize
from aap.features.purpose_context import purpose_in_force
from aap.features.views import all_views, services, view_for
from aap.infra.object_store import features_folder
from aap.project.loader import current_project
from tests.unit.features.store_room import AS_OF, CUSTOMERS, RETENTION, StoreRoom
from tests.waiting import PATIENCE_S

FOLDER = current_project().root / "feature_repo"
CHURN = services()["churn"]
VIEW = view_for(Entity.USER, RETENTION)
REFS = [f"{VIEW.name}:{name}" for name in CHURN.features]


@pytest.fixture
def store(room: StoreRoom) -> FeatureStore:
    return apply(room.settings)


def test_feast_plans_and_applies_from_the_command_line_and_writes_below_home_alone(home: Path) -> None:
    """The repository is one as Feast makes them: nothing is hidden from it, and no path is set for it."""
    program = Path(sys.executable).with_name("feast")
    before = sorted(FOLDER.rglob("*"))
    assert not (FOLDER / ".feastignore").exists()
    for command in ("plan", "apply"):
        done = subprocess.run(
            [program, "-c", FOLDER, command],
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True, text=True, timeout=PATIENCE_S, cwd=home.parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "user__marketing_retention" in done.stdout
    assert (home / "feast" / "registry.db").is_file()
    assert [p for p in sorted(FOLDER.rglob("*")) if "__pycache__" not in p.parts and p not in before] == []


def test_what_feast_knows_is_every_view_and_service_with_its_purpose(store: FeatureStore) -> None:
    assert {v.name: v.tags["purpose"] for v in store.list_feature_views()} == {
        v.name: v.purpose.value for v in all_views()
    }
    told = {s.name: s for s in store.list_feature_services()}
    assert set(told) == set(services())
    for name, declared in services().items():
        assert told[name].tags["to_train"] == ",".join(declared.training_purposes)
        (projection,) = told[name].feature_view_projections
        assert [f.name for f in projection.features] == [*declared.features, *declared.sequences]


def test_applying_again_changes_nothing_and_takes_out_what_is_no_longer_declared(
    store: FeatureStore, room: StoreRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {v.name for v in store.list_feature_views()}
    fewer = [o for o in feast_objects(features_folder(room.settings)) if o.name != "segments"]
    monkeypatch.setattr("aap.features.feast.store.feast_objects", lambda layout: fewer)
    again = apply(room.settings)
    assert {s.name for s in again.list_feature_services()} == set(services()) - {"segments"}
    assert {v.name for v in again.list_feature_views()} == views


def test_reading_online_through_feast_needs_the_view_s_purpose_in_force(store: FeatureStore, room: StoreRoom) -> None:
    materialize(room.settings, as_of=AS_OF)
    rows = [{"user_key": k} for k in room.keys("customer-0", "refuser", "stranger")]
    with pytest.raises(NoPurposeInForce, match="needs a purpose: use `with purpose_in_force"):
        store.get_online_features(features=REFS, entity_rows=rows)
    with (
        purpose_in_force(Purpose.ANALYTICS_REPORTING),
        pytest.raises(NoPurposeInForce, match="can't be read for analytics"),
    ):
        store.get_online_features(features=REFS, entity_rows=rows)
    with purpose_in_force(RETENTION):
        answer = store.get_online_features(features=REFS, entity_rows=rows).to_dict()
    told = np.array([answer[name] for name in CHURN.features], dtype=float).T
    ours = room.door().online_vectors([r["user_key"] for r in rows], service="churn", now=AS_OF)
    np.testing.assert_array_equal(told, ours.values)
    assert np.isnan(told[1:]).all()
    with pytest.raises(NoPurposeInForce):
        store.get_online_features(features=REFS, entity_rows=rows)


def test_reading_history_through_feast_needs_it_too_and_gives_only_what_the_grant_allows(
    store: FeatureStore, room: StoreRoom
) -> None:
    room.say("customer-1", RETENTION, Choice.WITHDRAWN, at=AS_OF)
    users = ("customer-0", "customer-1", "refuser", "stranger", "customer-0")
    entities = pd.DataFrame(
        {"user_key": room.keys(*users), "event_timestamp": [AS_OF - timedelta(days=9)] * len(users)}
    )
    with pytest.raises(NoPurposeInForce):
        store.get_historical_features(entity_df=entities, features=REFS)
    with purpose_in_force(RETENTION):
        frame = store.get_historical_features(entity_df=entities, features=REFS).to_df()
    assert frame["user_key"].tolist() == entities["user_key"].tolist(), "no row is lost, doubled or moved"
    values = frame[list(CHURN.features)].to_numpy(dtype=float)
    place = [[f.name for f in VIEW.numbers].index(n) for n in CHURN.features]
    offline = room.offline(RETENTION, "customer-0", at=AS_OF - timedelta(days=9))[0, place]
    np.testing.assert_array_equal(values[0], offline)
    np.testing.assert_array_equal(values[4], offline)
    assert np.isnan(values[1:4]).all()


@pytest.mark.parametrize("drop", ["user_key", "event_timestamp"])
def test_an_entity_frame_without_its_columns_is_told(store: FeatureStore, room: StoreRoom, drop: str) -> None:
    entities = pd.DataFrame({"user_key": room.keys("customer-0"), "event_timestamp": [AS_OF]}).drop(columns=drop)
    with purpose_in_force(RETENTION), pytest.raises((UnusableLabels, ValueError), match=drop):
        store.get_historical_features(entity_df=entities, features=REFS).to_df()


def test_all_values_at_once_are_not_to_be_had_through_feast(store: FeatureStore) -> None:
    source = store.get_feature_view(VIEW.name).batch_source
    span = {"start_date": AS_OF, "end_date": AS_OF}
    for pull in ("pull_all_from_table_or_query", "pull_latest_from_table_or_query"):
        with pytest.raises(FeatureError):
            getattr(store._get_provider().offline_store, pull)(
                config=store.config, data_source=source, join_key_columns=["user_key"], feature_name_columns=["x"],
                timestamp_field="valid_from", created_timestamp_column=None, **span,
            )  # fmt: skip


def pushed(room: StoreRoom, *users: str, spent: float = 12.5) -> pd.DataFrame:
    columns: dict[str, object] = {f.name: [1.0] * len(users) for f in VIEW.numbers}
    columns |= {"amount_sum_7d": [spent] * len(users), "days_since_last_purchase": [2.5] * len(users)}
    return pd.DataFrame({"user_key": room.keys(*users), "valid_from": [AS_OF] * len(users), **columns})


@pytest.mark.parametrize("way", ["push", "write_to_online_store"])
def test_values_pushed_through_feast_lie_in_our_store_under_consent(
    store: FeatureStore, room: StoreRoom, way: str
) -> None:
    frame = pushed(room, "customer-0", "refuser", "stranger")
    if way == "push":
        store.push(f"{VIEW.name}_push", frame, to=PushMode.ONLINE)
    else:
        store.write_to_online_store(VIEW.name, df=frame)
    read = room.read(RETENTION, "customer-0", "refuser", "stranger", now=AS_OF + timedelta(hours=12))
    names = [f.name for f in VIEW.numbers]
    assert read.values[0, names.index("amount_sum_7d")] == 12.5
    assert read.values[0, names.index("days_since_last_purchase")] == 3.0, "time goes on"
    assert (read.status[1:] == Status.DENIED).all()
    room.say("refuser", RETENTION, Choice.GIVEN, at=AS_OF + timedelta(hours=1))
    later = room.read(RETENTION, "refuser", now=AS_OF + timedelta(hours=1))
    assert (later.status == Status.NOT_FOUND).all(), "nothing was put down for who had refused"


def test_an_older_push_does_not_replace_a_newer_row(store: FeatureStore, room: StoreRoom) -> None:
    room.put_online(RETENTION, as_of=AS_OF + timedelta(hours=1))
    before = room.read(RETENTION, *CUSTOMERS, now=AS_OF + timedelta(hours=1)).values
    store.push(f"{VIEW.name}_push", pushed(room, *CUSTOMERS), to=PushMode.ONLINE)
    np.testing.assert_array_equal(room.read(RETENTION, *CUSTOMERS, now=AS_OF + timedelta(hours=1)).values, before)
