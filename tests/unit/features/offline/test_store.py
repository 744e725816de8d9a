"""The offline store answers every row asked, once, in the order asked, with what could be known at the row's moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.errors import NoPurposeInForce, UnusableLabels
from aap.features.feast.store import apply
from aap.features.purpose_context import purpose_in_force
from aap.features.views import view_for
from aap.infra.object_store import archive_folder
from tests.unit.features.store_room import AS_OF, ASKED, CUSTOMERS, RETENTION, StoreRoom

PEOPLE = view_for(Entity.USER, RETENTION)
SPENT, BASKETS = "amount_sum_90d", "basket_count_90d"


@pytest.fixture
def store(room: StoreRoom) -> FeatureStore:
    return apply(room.settings)


def asked(store: FeatureStore, labels: pd.DataFrame, *features: str) -> pd.DataFrame:
    with purpose_in_force(RETENTION):
        refs = [f"{PEOPLE.name}:{f}" for f in features or (SPENT, BASKETS)]
        return store.get_historical_features(entity_df=labels, features=refs).to_df()


def labels(room: StoreRoom, random: np.random.Generator, rows: int) -> pd.DataFrame:
    span = int((AS_OF - ASKED).total_seconds())
    moments = [ASKED + timedelta(seconds=int(s)) for s in random.integers(0, span, size=rows)]
    keys = random.choice(room.keys(*CUSTOMERS), size=rows)
    return pd.DataFrame(
        {"user_key": keys, "event_timestamp": pd.to_datetime(moments, utc=True), "label": np.arange(rows)}
    )


def test_no_row_is_lost_doubled_or_moved_and_ties_are_all_answered(
    room: StoreRoom, store: FeatureStore, random: np.random.Generator
) -> None:
    few = labels(room, random, 200)
    shuffled = pd.concat([few, few, few]).sample(frac=1, random_state=3).reset_index(drop=True)
    shuffled["label"] = np.arange(600)
    answered = asked(store, shuffled)
    assert answered["label"].tolist() == list(range(600))
    pd.testing.assert_frame_equal(answered[list(shuffled)], shuffled)
    assert answered.groupby(["user_key", "event_timestamp"])[[SPENT, BASKETS]].nunique().max().max() == 1
    assert answered[SPENT].notna().all()
    alone = {(r.user_key, r.event_timestamp): r for r in asked(store, few).itertuples()}
    for row in answered.itertuples():
        same = alone[row.user_key, row.event_timestamp]
        assert (getattr(row, SPENT), getattr(row, BASKETS)) == (getattr(same, SPENT), getattr(same, BASKETS))


def test_no_rows_asked_are_no_rows_answered(room: StoreRoom, store: FeatureStore, random: np.random.Generator) -> None:
    answered = asked(store, labels(room, random, 3).head(0))
    assert (len(answered), list(answered)[-2:]) == (0, [SPENT, BASKETS])


def test_who_is_unknown_refuses_or_had_not_been_asked_yet_keeps_a_row_of_nulls(
    room: StoreRoom, store: FeatureStore
) -> None:
    keys = ["0" * 32, *room.keys("refuser", "customer-0", "customer-0")]
    moments = [AS_OF, AS_OF, ASKED - timedelta(microseconds=1), AS_OF]
    frame = pd.DataFrame({"user_key": keys, "event_timestamp": pd.to_datetime(moments, utc=True)})
    answered = asked(store, frame)
    assert answered["user_key"].tolist() == keys
    assert answered[SPENT].isna().tolist() == [True, True, True, False]


def test_a_withdrawal_empties_the_rows_before_it_at_the_next_read(
    room: StoreRoom, store: FeatureStore, random: np.random.Generator
) -> None:
    rows = labels(room, random, 50)
    gone = rows["user_key"] == room.key("customer-1")
    assert asked(store, rows)[SPENT].notna().all()
    room.say("customer-1", RETENTION, Status.WITHDRAWN, at=AS_OF)
    room.clock[0] = AS_OF + timedelta(seconds=1)
    assert asked(store, rows)[SPENT].isna().tolist() == gone.tolist()


def test_times_without_a_zone_are_utc_and_others_are_converted(room: StoreRoom, store: FeatureStore) -> None:
    at = datetime(2024, 5, 5, 12, tzinfo=UTC)
    whole = pd.DataFrame({"user_key": room.keys("customer-0"), "event_timestamp": pd.to_datetime([at])})
    naive = whole.assign(event_timestamp=pd.to_datetime([at.replace(tzinfo=None)]))
    tokyo = whole.assign(event_timestamp=whole["event_timestamp"].dt.tz_convert("Asia/Tokyo"))
    values = {tuple(asked(store, frame)[[SPENT, BASKETS]].iloc[0]) for frame in (whole, naive, tokyo)}
    assert len(values) == 1


def test_a_frame_that_cannot_be_joined_is_told_in_a_sentence(room: StoreRoom, store: FeatureStore) -> None:
    good = pd.DataFrame({"user_key": room.keys("customer-0"), "event_timestamp": pd.to_datetime([AS_OF])})
    with pytest.raises(UnusableLabels, match=r"^Row 0 has no `event_timestamp`; give every row a time\.$"):
        asked(store, good.assign(event_timestamp=pd.to_datetime([None], utc=True)))
    with pytest.raises(UnusableLabels, match=rf"^The data frame already has a column {SPENT!r}; rename it\.$"):
        asked(store, good.assign(**{SPENT: 1.0}))
    with pytest.raises(UnusableLabels, match="has no column 'user_key'"):
        asked(store, good.rename(columns={"user_key": "kunde"}))


def test_reading_needs_the_purpose_the_values_were_computed_for(store: FeatureStore, room: StoreRoom) -> None:
    frame = pd.DataFrame({"user_key": room.keys("customer-0"), "event_timestamp": pd.to_datetime([AS_OF])})
    refs = [f"{PEOPLE.name}:{SPENT}"]
    with pytest.raises(NoPurposeInForce):
        store.get_historical_features(entity_df=frame, features=refs).to_df()
    with pytest.raises(NoPurposeInForce), purpose_in_force(Purpose.ANALYTICS_REPORTING):
        store.get_historical_features(entity_df=frame, features=refs).to_df()


def test_a_purchase_counts_from_when_it_was_received_not_from_when_it_happened(
    room: StoreRoom, store: FeatureStore
) -> None:
    """Every late line of the archive: its person's spending doesn't move at its time, and does when it comes in."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        late = connection.execute(
            f"WITH e AS (FROM {room.shop.archive.sql('product_purchased', on=connection)}) "
            "SELECT user_key, occurred_at, available_at FROM e WHERE available_at > occurred_at AND NOT EXISTS "
            "(SELECT 1 FROM e AS other WHERE other.user_key = e.user_key AND other.available_at = e.occurred_at) "
            "GROUP BY ALL HAVING sum(amount) > 0 ORDER BY ALL"
        ).df()
    late = late[late["user_key"].isin(room.keys(*CUSTOMERS)) & (late["occurred_at"] > ASKED)]
    assert len(late) > 10
    tick = pd.Timedelta(microseconds=1)

    def ever(moments: pd.Series) -> np.ndarray:
        frame = pd.DataFrame({"user_key": late["user_key"], "event_timestamp": moments.dt.tz_convert("UTC")})
        return asked(store, frame, "amount_sum_ever")["amount_sum_ever"].to_numpy()

    assert (ever(late["occurred_at"]) == ever(late["occurred_at"] - tick)).all()
    assert (ever(late["available_at"]) > ever(late["available_at"] - tick)).all()


def test_after_a_withdrawal_and_a_new_grant_nothing_from_before_counts_though_it_is_still_stored(
    room: StoreRoom, store: FeatureStore
) -> None:
    """The archive keeps the lines for the other purposes; the values of this one start afresh with the new grant."""
    back, moment = AS_OF - timedelta(days=40), AS_OF - timedelta(days=1)
    room.say("customer-1", RETENTION, Status.WITHDRAWN, at=AS_OF - timedelta(days=70))
    room.say("customer-1", RETENTION, Status.GIVEN, at=back)
    room.build()
    lines = Archive(archive_folder(room.settings)).of(room.key("customer-1"))["product_purchased"].to_pandas()
    known = lines[lines["available_at"] <= moment]
    since = known[known["occurred_at"] >= back]
    assert 0 < since["amount"].sum() < known["amount"].sum()
    frame = pd.DataFrame({"user_key": room.keys("customer-1"), "event_timestamp": pd.to_datetime([moment])})
    assert asked(store, frame, "amount_sum_ever")["amount_sum_ever"].tolist() == [since["amount"].sum() / 100]
