"""What is read online is what the offline values say, for as long as consent and freshness hold, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aap.consent import redis_projection
from aap.consent.policy import Decision, Reason, Status as Choice
from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.errors import FeaturesNotBuilt, OnlineStoreUnavailable
from aap.features.feast.store import apply, materialize
from aap.features.offline.store import RECORD
from aap.features.online import materialize as materializing, reader
from aap.features.online.materialize import latest_items
from aap.features.online.row_codec import header_of
from aap.features.views import view_for
from aap.infra.object_store import features_folder
from aap.infra.redis.connection import connect
from tests.unit.features.store_room import AS_OF, ASKED, CUSTOMERS, REPORTING, RETENTION, StoreRoom

LATER = [timedelta(0), timedelta(microseconds=1), timedelta(hours=8, minutes=14, seconds=29, microseconds=876544)]
LATER += [timedelta(days=d, hours=h) for d in (1, 3, 7, 20, 34) for h in (0, 9)]
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("purpose", [RETENTION, REPORTING, Purpose.ESSENTIAL_FRAUD_DETECTION])
def test_online_equals_offline_at_every_later_moment(room: StoreRoom, purpose: Purpose) -> None:
    assert room.put_online(purpose) == (9, 0)
    changed = 0
    before = room.read(purpose, *CUSTOMERS).values
    for step in LATER:
        read = room.read(purpose, *CUSTOMERS, now=AS_OF + step)
        offline = room.offline(purpose, *CUSTOMERS, at=AS_OF + step)
        np.testing.assert_allclose(read.values, offline, rtol=1e-12)
        assert (read.status == np.where(np.isnan(offline), Status.NULL, Status.PRESENT)).all()
        changed += not np.array_equal(read.values, before, equal_nan=True)
    assert changed > 10, "values decay with no new event"


def test_a_row_too_old_to_be_trusted_is_expired_not_stale(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    view = view_for(Entity.USER, RETENTION)
    end = AS_OF + timedelta(microseconds=view.time_to_live_us)
    assert (room.read(RETENTION, "customer-0", now=end - timedelta(microseconds=1)).status <= Status.NULL).all()
    late = room.read(RETENTION, "customer-0", now=end)
    assert (late.status == Status.EXPIRED).all()
    assert np.isnan(late.values).all()
    assert late.decisions[0].allowed


def test_an_unknown_person_is_denied_for_want_of_any_record(room: StoreRoom) -> None:
    read = room.read(RETENTION, "stranger")
    assert (read.status == Status.DENIED).all()
    assert read.decisions == [Decision(False, RETENTION, Reason.NO_RECORD, -1)]


def test_a_person_who_allows_it_but_has_no_row_yet_is_not_found(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    room.say("newcomer", RETENTION, Choice.GIVEN, at=AS_OF)
    read = room.read(RETENTION, "newcomer", "customer-0")
    assert read.decisions[0].allowed
    assert (read.status[0] == Status.NOT_FOUND).all()
    assert (read.status[1] <= Status.NULL).all()


def test_who_refuses_has_no_row_and_is_denied(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    read = room.read(RETENTION, "refuser")
    assert (read.status == Status.DENIED).all()
    assert read.decisions[0].reason is Reason.REFUSED
    assert connect(room.settings).exists(*redis_projection.feature_keys(room.key("refuser"), RETENTION)) == 0


def test_who_withdraws_is_denied_at_once_and_the_values_are_gone(room: StoreRoom) -> None:
    client = connect(room.settings)
    room.put_online(RETENTION)
    room.put_online(REPORTING)
    room.say("customer-0", RETENTION, Choice.WITHDRAWN, at=AS_OF + MINUTE)
    read = room.read(RETENTION, "customer-0", "customer-1", now=AS_OF + MINUTE)
    assert (read.status[0] == Status.DENIED).all()
    assert np.isnan(read.values[0]).all()
    assert (read.status[1] <= Status.NULL).all()
    assert client.exists(*redis_projection.feature_keys(room.key("customer-0"), RETENTION)) == 0
    other = room.read(REPORTING, "customer-0", now=AS_OF + MINUTE)
    assert (other.status <= Status.NULL).all(), "another purpose keeps its own"


def test_given_again_old_values_are_never_read_even_if_they_are_put_back_beside_the_new_grant(room: StoreRoom) -> None:
    client, view = connect(room.settings), view_for(Entity.USER, RETENTION)
    room.put_online(RETENTION)
    rows = [r for r in room.rows(view) if r.user_key == room.key("customer-0")]
    row, timetable = redis_projection.feature_keys(room.key("customer-0"), RETENTION)
    kept, later = client.mget([row, timetable])  # type: ignore[misc]
    room.say("customer-0", RETENTION, Choice.WITHDRAWN, at=AS_OF + MINUTE)
    room.say("customer-0", RETENTION, Choice.GIVEN, at=AS_OF + 2 * MINUTE)
    now = AS_OF + 3 * MINUTE
    assert (room.read(RETENTION, "customer-0", now=now).status == Status.NOT_FOUND).all()
    assert reader.write(client, view, rows) == (0, 1), "the store takes nothing learned under another grant"
    told = client.get(redis_projection.consent_key(room.key("customer-0")))
    assert isinstance(told, bytes)
    client.mset({row: told + kept[len(told) :], timetable: later})
    read = room.read(RETENTION, "customer-0", now=now)
    assert read.decisions[0].allowed
    assert (read.status == Status.NOT_FOUND).all()
    assert np.isnan(read.values).all()


def test_after_a_new_grant_only_what_happens_from_then_on_counts(room: StoreRoom) -> None:
    room.say("customer-0", RETENTION, Choice.WITHDRAWN, at=AS_OF + MINUTE)
    room.say("customer-0", RETENTION, Choice.GIVEN, at=AS_OF + 2 * MINUTE)
    as_of = AS_OF + 3 * MINUTE
    room.build(as_of=as_of)
    room.put_online(RETENTION, as_of=as_of)
    view = view_for(Entity.USER, RETENTION)
    place = [f.name for f in view.numbers].index("basket_count_ever")
    read = room.read(RETENTION, "customer-0", "customer-1", now=as_of)
    assert read.values[0, place] == 0
    assert read.values[1, place] == 25


def test_the_newest_row_wins_whatever_the_order_of_writing(room: StoreRoom) -> None:
    client, view = connect(room.settings), view_for(Entity.USER, RETENTION)
    old = room.rows(view, as_of=AS_OF)
    new = room.rows(view, as_of=AS_OF + timedelta(days=1))
    assert reader.write(client, view, new) == (len(new), 0)
    assert reader.write(client, view, old) == (0, len(old))
    key = redis_projection.feature_keys(room.key("customer-0"), RETENTION)[0]
    blob = client.get(key)
    assert isinstance(blob, bytes)
    assert header_of(view, blob)["as_of"] == reader.to_micros(AS_OF + timedelta(days=1))


@pytest.mark.parametrize("consent", ["missing", "short", "another grant", "ended"])
def test_nothing_is_written_for_whom_the_projection_has_no_grant(room: StoreRoom, consent: str) -> None:
    client, view = connect(room.settings), view_for(Entity.USER, RETENTION)
    (row,) = [r for r in room.rows(view) if r.user_key == room.key("customer-0")]
    where = redis_projection.consent_key(row.user_key)
    if consent == "missing":
        client.delete(where)
    elif consent == "short":
        client.set(where, b"\x00" * 16)
    elif consent == "another grant":
        row = row._replace(grant_start=row.grant_start + 1)
    else:
        row = row._replace(as_of=reader.to_micros(AS_OF + timedelta(days=2_000)))
    assert reader.write(client, view, [row]) == (0, 1)
    assert client.exists(*redis_projection.feature_keys(row.user_key, RETENTION)) == 0


def test_a_row_of_other_declarations_or_a_damaged_one_is_not_found(room: StoreRoom) -> None:
    client = connect(room.settings)
    room.put_online(RETENTION)
    key = redis_projection.feature_keys(room.key("customer-0"), RETENTION)[0]
    blob = client.get(key)
    assert isinstance(blob, bytes)
    at = redis_projection.ROW.itemsize
    for damaged in (blob[:at] + b"\x00\x00\x00\x00" + blob[at + 4 :], blob[: at + 60], blob[:60], blob[at:], b""):
        client.set(key, damaged)
        assert (room.read(RETENTION, "customer-0").status == Status.NOT_FOUND).all()


@pytest.mark.parametrize("timetable", [None, b"", b"short", b"\x00" * 40, "cut"])
def test_a_timetable_that_is_gone_or_damaged_makes_the_values_expired_not_wrong(
    room: StoreRoom, timetable: bytes | str | None
) -> None:
    client = connect(room.settings)
    room.put_online(RETENTION)
    key = redis_projection.feature_keys(room.key("customer-0"), RETENTION)[1]
    held = client.get(key)
    assert isinstance(held, bytes)
    client.delete(key)
    if timetable is not None:
        client.set(key, held[:-5] if timetable == "cut" else timetable)
    assert (room.read(RETENTION, "customer-0").status <= Status.NULL).all()
    assert (room.read(RETENTION, "customer-0", now=AS_OF + timedelta(days=9)).status == Status.EXPIRED).all()


def test_last_bought_products_come_newest_first_and_only_to_who_allows_it(room: StoreRoom) -> None:
    profile = Purpose.PERSONALIZE_PROFILING
    room.put_online(profile)
    bought, _baskets = room.read(profile, "customer-0", "refuser").sequences
    meant = room.shop.events(columns="item_id, occurred_at, source, id, user_key, available_at")
    known = (e for e in meant if e[4] == room.key("customer-0") and e[1] >= ASKED and e[5] <= AS_OF)
    mine = sorted(known, key=lambda e: (e[2], e[3]))
    newest = [e[0] for e in sorted(mine, key=lambda e: e[1], reverse=True)]
    assert bought[0] == newest[: view_for(Entity.USER, profile).sequences[0].n]
    assert bought[1] == []


def test_items_are_read_with_their_own_expiry(room: StoreRoom) -> None:
    client, view = connect(room.settings), view_for(Entity.ITEM, Purpose.PERSONALIZE_PROFILING)
    reader.write_items(client, view, latest_items(view, folder=features_folder(room.settings), as_of=AS_OF))
    values, status = reader.read_items(client, view, ["i0", "no such item"], now=AS_OF)
    assert (status[0] <= Status.NULL).all()
    assert (status[1] == Status.NOT_FOUND).all()
    buyers = [f.name for f in view.numbers].index("buyer_count_28d")
    assert 0 < values[0, buyers] <= 9
    assert (reader.read_items(client, view, ["i0"], now=AS_OF + timedelta(days=36))[1] == Status.EXPIRED).all()


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_file_read_in_small_pieces_gives_the_same_rows(
    room: StoreRoom, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    user, item = view_for(Entity.USER, RETENTION), view_for(Entity.ITEM, Purpose.PERSONALIZE_PROFILING)
    features = features_folder(room.settings)
    whole = room.rows(user), list(latest_items(item, folder=features, as_of=AS_OF))
    assert any(row.timetable for row in whole[0])
    monkeypatch.setattr(materializing, "_ROWS_A_PIECE", rows)
    assert (room.rows(user), list(latest_items(item, folder=features, as_of=AS_OF))) == whole


def test_feast_s_materialization_writes_what_our_own_would(room: StoreRoom) -> None:
    apply(room.settings)
    materialize(room.settings, as_of=AS_OF)
    np.testing.assert_array_equal(
        room.read(RETENTION, *CUSTOMERS, "no-training").values,
        room.offline(RETENTION, *CUSTOMERS, "no-training", at=AS_OF),
    )


def test_features_that_are_not_built_or_are_damaged_are_told(room: StoreRoom) -> None:
    view = view_for(Entity.USER, RETENTION)
    built = room.built(view)
    file = room.layout.features / view.name / built.pieces[0].name
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(FeaturesNotBuilt, match="missing or damaged; run `aap features build`"):
        room.rows(view)
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(FeaturesNotBuilt, match=r"can't be read .*; run `aap features build --anew`"):
        room.rows(view)
    built.folder.remove([RECORD])
    with pytest.raises(FeaturesNotBuilt, match="not built yet; run `aap features build`"):
        room.rows(view)


def test_with_redis_down_reading_says_so(room: StoreRoom) -> None:
    nobody = redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    view = view_for(Entity.USER, RETENTION)
    with pytest.raises(OnlineStoreUnavailable, match="Redis can't be reached"):
        reader.read(nobody, view, room.keys("customer-0"), purposes=[RETENTION], now=AS_OF)
