"""Training frames: the right rows, in one order, for people who allow it, with a proof of what was used."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aap.consent.policy import Status as Choice
from aap.consent.purposes import Purpose
from aap.features.errors import FeaturesNotBuilt, UnknownFeature, UnusableLabels
from aap.features.views import service
from tests.unit.features.store_room import AS_OF, ASKED, CUSTOMERS, RETENTION, TRAINING, StoreRoom

CHURN = service("churn")
MOMENTS = [ASKED + timedelta(days=d, seconds=d) for d in (30, 60, 90, 170)]


def labels(room: StoreRoom, *users: str, moments: list[datetime] | None = None) -> pd.DataFrame:
    rows = [(room.key(u), t) for u in users for t in moments or MOMENTS]
    return pd.DataFrame(rows, columns=["user_key", "as_of"]).assign(left=[i % 2 for i in range(len(rows))])


def test_rows_come_in_one_order_whatever_order_the_labels_had(room: StoreRoom) -> None:
    asked = labels(room, *CUSTOMERS)
    frame = room.door().training_frame(asked, service="churn", as_of=AS_OF)
    shuffled = asked.sample(frac=1, random_state=3)
    again = room.door().training_frame(shuffled, service="churn", as_of=AS_OF)
    pd.testing.assert_frame_equal(frame.data, again.data)
    assert frame.manifest == again.manifest
    assert list(zip(frame.data["user_key"], frame.data["as_of"], strict=True)) == sorted(
        zip(asked["user_key"], pd.to_datetime(asked["as_of"], utc=True), strict=True)
    )
    assert list(frame.data.columns) == ["user_key", "as_of", "left", *CHURN.features]


def test_a_training_row_is_what_serving_would_have_read(room: StoreRoom) -> None:
    now = AS_OF + timedelta(days=3)
    room.put_online(RETENTION)
    room.clock[0] = now
    frame = room.door().training_frame(labels(room, *CUSTOMERS, moments=[now]), service="churn", as_of=now)
    vectors = room.door().online_vectors(sorted(room.keys(*CUSTOMERS)), service="churn", now=now)
    assert vectors.features == frame.features
    np.testing.assert_allclose(frame.values, vectors.values, rtol=1e-12)


def test_labels_that_share_a_person_and_a_moment_are_all_answered(room: StoreRoom) -> None:
    asked = pd.concat([labels(room, "customer-0").assign(left=i) for i in range(3)])
    frame = room.door().training_frame(asked, service="churn", as_of=AS_OF)
    assert frame.manifest.rows == 12
    assert sorted(frame.data["left"]) == [0] * 4 + [1] * 4 + [2] * 4
    assert frame.data.groupby("as_of")["basket_count_ever"].nunique().tolist() == [1] * 4


def test_nobody_who_does_not_allow_training_is_in_it_and_the_reasons_are_counted(room: StoreRoom) -> None:
    room.say("customer-1", TRAINING, Choice.WITHDRAWN, at=AS_OF)
    room.say("customer-2", RETENTION, Choice.WITHDRAWN, at=AS_OF)
    for purpose in (RETENTION, TRAINING):
        room.say("newcomer", purpose, Choice.GIVEN, at=AS_OF - timedelta(hours=1))
    everyone = (*CUSTOMERS, "no-training", "refuser", "stranger")
    asked = pd.concat([labels(room, *everyone), labels(room, "newcomer", moments=[MOMENTS[0], AS_OF])])
    frame = room.door().training_frame(asked, service="churn", as_of=AS_OF)
    left_out = {"customer-1", "customer-2"}
    assert set(frame.data["user_key"]) == set(room.keys(*(c for c in CUSTOMERS if c not in left_out)))
    assert frame.manifest.excluded == {
        "before_grant": 1, "no_features": 1, "no_record": 4, "refused": 8, "withdrawn": 8,
    }  # fmt: skip
    assert frame.manifest.rows + sum(frame.manifest.excluded.values()) == len(asked)
    assert room.door().people("churn", as_of=AS_OF) == sorted(room.keys("newcomer", *(set(CUSTOMERS) - left_out)))


def test_given_again_rows_before_the_new_grant_stay_out(room: StoreRoom) -> None:
    room.say("customer-0", RETENTION, Choice.WITHDRAWN, at=AS_OF)
    room.say("customer-0", RETENTION, Choice.GIVEN, at=AS_OF + timedelta(hours=1))
    later = AS_OF + timedelta(hours=2)
    asked = labels(room, "customer-0", moments=[*MOMENTS, later])
    frame = room.door().training_frame(asked, service="churn", as_of=later)
    assert frame.manifest.rows == 0
    assert frame.manifest.excluded == {"before_grant": 4, "no_features": 1}, "the values were built under the old grant"
    room.build(as_of=later)
    frame = room.door().training_frame(asked, service="churn", as_of=later)
    assert frame.manifest.excluded == {"before_grant": 4}
    assert frame.data["basket_count_ever"].tolist() == [0.0]


def test_the_manifest_names_what_was_used_and_its_root_changes_with_any_value(room: StoreRoom) -> None:
    asked = labels(room, *CUSTOMERS)
    first = room.door().training_frame(asked, service="churn", as_of=AS_OF).manifest
    assert (first.purpose, first.requires) == ("marketing.retention", ("marketing.retention", "train_ai_system"))
    assert (first.rows, first.features, first.excluded) == (32, CHURN.features, {})
    size = first.ledger_size
    other_label = asked.assign(left=[1, *asked["left"][1:]])
    assert room.door().training_frame(other_label, service="churn", as_of=AS_OF).manifest.rows_root != first.rows_root
    assert room.door().training_frame(asked[:-1], service="churn", as_of=AS_OF).manifest.rows_root != first.rows_root
    room.say("customer-0", Purpose.THIRD_PARTY_SHARING, Choice.REFUSED, at=AS_OF)
    after = room.door().training_frame(asked, service="churn", as_of=AS_OF).manifest
    assert after.ledger_size == size + 1
    assert after.ledger_root != first.ledger_root
    assert after.rows_root == first.rows_root
    assert after.to_dict()["as_of"] == AS_OF.isoformat()


def test_a_frame_as_of_a_past_moment_leaves_out_who_has_withdrawn_since(room: StoreRoom) -> None:
    """They allowed it then; the use is now."""
    room.say("customer-1", TRAINING, Choice.WITHDRAWN, at=AS_OF + timedelta(days=1))
    room.clock[0] = AS_OF + timedelta(days=2)
    frame = room.door().training_frame(labels(room, "customer-0", "customer-1"), service="churn", as_of=AS_OF)
    assert set(frame.data["user_key"]) == {room.key("customer-0")}
    bought = room.door().interactions("recommendation", as_of=AS_OF).table
    assert room.key("customer-1") not in bought["user_key"].to_pylist()


def test_raw_ids_are_turned_into_keys_at_the_door_and_not_kept(room: StoreRoom) -> None:
    asked = pd.DataFrame({"user_id": list(CUSTOMERS), "as_of": [MOMENTS[0]] * len(CUSTOMERS)})
    frame = room.door().training_frame(asked, service="churn", as_of=AS_OF)
    assert set(frame.data["user_key"]) == set(room.keys(*CUSTOMERS))
    assert "user_id" not in frame.data
    assert asked.columns.tolist() == ["user_id", "as_of"], "the caller's frame is as it was"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"drop": ["as_of"]}, "Labels need the columns `as_of` and `user_key`"),
        ({"drop": ["user_key"]}, "Labels need the columns `as_of` and `user_key`"),
        ({"as_of": "someday"}, "The column `as_of` has a value that is no time"),
        ({"as_of": None}, "no later than the moment of use"),
        ({"as_of": AS_OF + timedelta(microseconds=1)}, "no later than the moment of use"),
        ({"amount_sum_7d": 1.0}, "'amount_sum_7d', which is also a feature"),
    ],
)
def test_labels_that_cannot_be_used_are_told_in_one_sentence(
    room: StoreRoom, change: dict[str, Any], problem: str
) -> None:
    asked = labels(room, "customer-0")
    asked = asked.drop(columns=change["drop"]) if "drop" in change else asked.assign(**change)
    with pytest.raises(UnusableLabels, match=problem) as told:
        room.door().training_frame(asked, service="churn", as_of=AS_OF)
    assert "\n" not in str(told.value)


def test_an_unknown_service_is_told_with_the_known_ones(room: StoreRoom) -> None:
    with pytest.raises(
        UnknownFeature, match=r"^Unknown feature service 'fortune'; choose one of: recommendation, churn"
    ):
        room.door().training_frame(labels(room, "customer-0"), service="fortune", as_of=AS_OF)


def test_before_anything_is_built_that_is_what_is_said(room: StoreRoom) -> None:
    for file in room.layout.features.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(FeaturesNotBuilt, match="run `aap features build`"):
        room.door().training_frame(labels(room, "customer-0"), service="churn", as_of=AS_OF)


def test_no_labels_give_an_empty_frame_and_not_an_error(room: StoreRoom) -> None:
    frame = room.door().training_frame(labels(room, "customer-0")[:0], service="churn", as_of=AS_OF)
    assert (len(frame.data), frame.manifest.rows) == (0, 0)


def test_keys_may_be_held_by_arrow_and_in_pieces_and_a_frame_without_rows_has_no_type_for_them(room: StoreRoom) -> None:
    asked = labels(room, *CUSTOMERS)
    held = asked.astype({"user_key": "string[pyarrow]"})
    halves = pd.concat([held.iloc[::2], held.iloc[1::2]])
    frame = room.door().training_frame(halves, service="churn", as_of=AS_OF)
    assert frame.manifest == room.door().training_frame(asked, service="churn", as_of=AS_OF).manifest
    nobody = pd.DataFrame({"user_key": [], "as_of": pd.Series([], dtype="datetime64[us, UTC]")})
    assert room.door().training_frame(nobody, service="churn", as_of=AS_OF).data.empty


def test_interactions_are_the_purchases_that_every_training_purpose_has_covered(room: StoreRoom) -> None:
    profile = Purpose.PERSONALIZE_PROFILING
    room.say("customer-1", TRAINING, Choice.WITHDRAWN, at=AS_OF - timedelta(days=40))
    room.say("customer-1", TRAINING, Choice.GIVEN, at=AS_OF - timedelta(days=30))
    room.say("customer-2", profile, Choice.WITHDRAWN, at=AS_OF)
    found = room.door().interactions("recommendation", as_of=AS_OF)
    table = found.table.to_pandas()
    assert set(table["user_key"]) == set(room.keys(*(c for c in CUSTOMERS if c != "customer-2")))
    assert (table.loc[table["user_key"] == room.key("customer-1"), "occurred_at"] >= AS_OF - timedelta(days=30)).all()
    stored = room.shop.events(columns="user_key, occurred_at, available_at, item_id")
    meant = [
        e for e in stored
        if e[0] in set(table["user_key"]) and e[2] <= AS_OF and e[1] <= AS_OF
        and e[1] >= (AS_OF - timedelta(days=30) if e[0] == room.key("customer-1") else ASKED)
    ]  # fmt: skip
    assert found.manifest.rows == len(table) == len(meant)
    ordered = list(zip(table["user_key"], table["occurred_at"], table["item_id"], strict=True))
    assert ordered == sorted(ordered)


def test_interactions_of_a_span_leave_out_what_was_not_known_by_its_end(room: StoreRoom) -> None:
    stored = room.shop.events(columns="user_key, occurred_at, available_at")
    trained, since = set(room.keys(*CUSTOMERS)), AS_OF - timedelta(days=150)
    late = [e for e in stored if e[0] in trained and e[2] - e[1] > timedelta(hours=1) and e[1] > since]
    assert len(late) > 10
    for _, occurred, available in late[::5]:
        for until in (occurred, available - timedelta(microseconds=1), available):
            found = room.door().interactions("recommendation", as_of=AS_OF, since=since, until=until)
            meant = [e for e in stored if since < e[1] <= until and e[2] <= until and e[0] in trained]
            assert found.manifest.rows == len(meant)
