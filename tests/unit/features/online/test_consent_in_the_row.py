"""A row begins with its person's consent: the copy is the projection at every moment, whoever writes what, and when."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import redis

from aap.config import Settings
from aap.consent import redis_projection
from aap.consent.policy import FOREVER, LONGEST_GRANT, Decision, Grant, Reason
from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.online import reader
from aap.features.online.row_codec import NEVER, PackedRows, pack_rows
from aap.features.online.writer import OnlineRows
from aap.infra.redis.connection import connect
from benchmarks.online_read import bring_online
from benchmarks.support.synthetic_users import AS_OF, Crowd, crowd, project, the_view

VIEW, PEOPLE = the_view(), crowd(60)
MINE, OTHER = VIEW.purpose, Purpose.PERSONALIZE_PROFILED
HOUR = timedelta(hours=1)
PRESENT = PEOPLE.with_values()
KEY = PEOPLE.keys[PRESENT[0]]

Standing = Mapping[Purpose, tuple[list[Grant], Reason]]


def without(key: str, *purposes: Purpose, at: Any = AS_OF, standing: Standing | None = None) -> dict[str, Any]:
    """The person's standing once they have withdrawn `purposes` at `at`."""
    said = dict(standing or PEOPLE.standing[key])
    for purpose in purposes:
        (grant,) = said[purpose][0]
        said[purpose] = ([Grant(key, purpose, grant.start, at, Reason.WITHDRAWN)], Reason.WITHDRAWN)
    return {key: said}


def row_key(key: str, purpose: Purpose = MINE) -> str:
    return redis_projection.feature_keys(key, purpose)[0]


def copies(client: redis.Redis, keys: list[str]) -> list[tuple[bytes | None, bytes | None]]:
    """Of each person, at one moment: the projection, and the row's copy of it."""
    blobs: list[bytes | None] = client.mget(
        [k for key in keys for k in (redis_projection.consent_key(key), row_key(key))]
    )  # type: ignore[assignment]
    rows = [b and b[: redis_projection.ROW.itemsize] for b in blobs[1::2]]
    return list(zip(blobs[::2], rows, strict=True))


def read(client: Any, *keys: str, purposes: tuple[Purpose, ...] = (MINE, OTHER), now: Any = AS_OF) -> Any:
    return reader.read(client, VIEW, list(keys), purposes=purposes, now=now)


class Counted:
    """A client that counts the keys of each `MGET`."""

    def __init__(self, client: redis.Redis) -> None:
        self.client, self.asked = client, list[int]()

    def mget(self, keys: list[str]) -> Any:
        self.asked.append(len(keys))
        return self.client.mget(keys)


@pytest.fixture
def client(redis_client: redis.Redis) -> redis.Redis:
    project(redis_client, PEOPLE)
    bring_online(redis_client, VIEW, PEOPLE)
    return redis_client


def test_every_row_begins_with_the_projection_and_one_look_reads_both(client: redis.Redis) -> None:
    keys = [PEOPLE.keys[i] for i in PRESENT]
    assert all(copy is not None and copy == told for told, copy in copies(client, keys))
    counted = Counted(client)
    got = read(counted, *keys)
    assert counted.asked == [len(keys)]
    np.testing.assert_array_equal(got.values, PEOPLE.values[PRESENT])
    assert got.decisions == [Decision(True, MINE, Reason.GRANTED, 1)] * len(keys)


def test_only_of_people_without_a_row_is_consent_asked_by_itself(client: redis.Redis) -> None:
    newcomer, unknown, refuser = "e" * 32, "f" * 32, "d" * 32
    said = {p: ([], Reason.REFUSED) for p in Purpose}
    redis_projection.write(client, {newcomer: PEOPLE.standing[KEY], refuser: said}, seq=9, now=AS_OF)
    counted = Counted(client)
    got = read(counted, newcomer, KEY, unknown, refuser)
    assert counted.asked == [4, 3]
    assert got.status[:, 0].tolist() == [Status.NOT_FOUND, Status.PRESENT, Status.DENIED, Status.DENIED]
    assert got.decisions == [
        Decision(True, MINE, Reason.GRANTED, 9),
        Decision(True, MINE, Reason.GRANTED, 1),
        Decision(False, MINE, Reason.NO_RECORD, -1),
        Decision(False, MINE, Reason.REFUSED, 9),
    ]
    client.set(redis_projection.consent_key(newcomer), b"short")
    assert read(client, KEY, newcomer).decisions[1] == Decision(False, MINE, Reason.UNAVAILABLE, -1)


def test_withdrawing_another_purpose_changes_the_row_s_copy_before_it_is_acknowledged(client: redis.Redis) -> None:
    redis_projection.write(client, without(KEY, OTHER), seq=2, now=AS_OF)
    assert read(client, KEY).decisions == [Decision(False, OTHER, Reason.WITHDRAWN, 2)]
    assert (read(client, KEY).status == Status.DENIED).all()
    own = read(client, KEY, purposes=(MINE,))
    assert own.decisions == [Decision(True, MINE, Reason.GRANTED, 2)]
    np.testing.assert_array_equal(own.values, PEOPLE.values[PRESENT[:1]])


def test_a_renewal_and_an_end_in_time_are_read_from_the_copy(client: redis.Redis) -> None:
    (grant,) = PEOPLE.standing[KEY][MINE][0]
    late = grant.end - timedelta(microseconds=1)
    assert read(client, KEY, now=late).decisions[0].allowed
    assert read(client, KEY, now=grant.end).decisions == [Decision(False, MINE, Reason.EXPIRED, 1)]
    renewed = {p: ([Grant(KEY, p, grant.start, grant.end + HOUR, Reason.EXPIRED)], Reason.EXPIRED) for p in Purpose}
    redis_projection.write(client, {KEY: renewed}, seq=2, now=AS_OF)
    assert read(client, KEY, now=grant.end).decisions == [Decision(True, MINE, Reason.GRANTED, 2)]


def test_an_older_word_of_the_ledger_never_reverts_a_copy(client: redis.Redis) -> None:
    redis_projection.write(client, without(KEY, OTHER), seq=5, now=AS_OF)
    before = copies(client, [KEY])
    redis_projection.write(client, {KEY: PEOPLE.standing[KEY]}, seq=4, now=AS_OF)
    assert copies(client, [KEY]) == before
    assert read(client, KEY).decisions == [Decision(False, OTHER, Reason.WITHDRAWN, 5)]


def test_a_row_takes_the_consent_of_the_moment_it_is_written_and_a_refused_one_changes_nothing(
    client: redis.Redis,
) -> None:
    redis_projection.write(client, without(KEY, OTHER), seq=5, now=AS_OF)
    before = client.get(row_key(KEY))
    bring_online(client, VIEW, PEOPLE, as_of=AS_OF - HOUR)
    assert client.get(row_key(KEY)) == before
    changed = Crowd(PEOPLE.keys, PEOPLE.values + 1, PEOPLE.standing, PEOPLE.missing)
    bring_online(client, VIEW, changed, as_of=AS_OF + HOUR)
    ((told, copy),) = copies(client, [KEY])
    assert copy == told
    assert read(client, KEY, now=AS_OF + HOUR).decisions == [Decision(False, OTHER, Reason.WITHDRAWN, 5)]
    np.testing.assert_array_equal(
        read(client, KEY, purposes=(MINE,), now=AS_OF + HOUR).values, PEOPLE.values[PRESENT[:1]] + 1
    )


@pytest.mark.parametrize("purpose", [MINE, Purpose.ESSENTIAL_FRAUD_DETECTION])
@pytest.mark.parametrize("damage", ["emptied", "of another grant", "cut off", "other declarations"])
def test_a_row_without_sound_consent_is_never_read(client: redis.Redis, damage: str, purpose: Purpose) -> None:
    size = redis_projection.ROW.itemsize
    blob = client.get(row_key(KEY))
    assert isinstance(blob, bytes)
    start = redis_projection.places(MINE)[0]
    damaged = {
        "emptied": bytes(size) + blob[size:],
        "of another grant": blob[:start] + bytes([blob[start] ^ 1]) + blob[start + 1 :],
        "cut off": blob[size:],
        "other declarations": blob[:size] + bytes([blob[size] ^ 1]) + blob[size + 1 :],
    }[damage]
    client.set(row_key(KEY), damaged)
    got = read(client, KEY)
    assert (got.status == Status.NOT_FOUND).all(), "the projection, asked by itself, allows it"
    assert np.isnan(got.values).all()
    client.delete(redis_projection.consent_key(KEY))
    assert read(client, KEY).decisions == [Decision(False, MINE, Reason.NO_RECORD, -1)]
    client.set(redis_projection.consent_key(KEY), b"short")
    assert read(client, KEY).decisions == [Decision(False, MINE, Reason.UNAVAILABLE, -1)]


def test_consent_of_zeros_denies_as_unavailable_even_where_a_grant_may_begin_at_zero(client: redis.Redis) -> None:
    view = type(VIEW)(VIEW.entity, Purpose.ESSENTIAL_FRAUD_DETECTION, VIEW.features)
    at = reader.to_micros(AS_OF)
    values, until, start = np.ones((1, len(view.numbers))), np.array([NEVER]), np.array([0])
    (packed,) = pack_rows(view, values, as_of=at, valid_until=until, grant_start=start)
    client.set(row_key(KEY, view.purpose), bytes(redis_projection.ROW.itemsize) + packed)
    got = reader.read(client, view, [KEY], purposes=[view.purpose], now=AS_OF)
    assert (got.status == Status.DENIED).all()
    assert got.decisions == [Decision(False, view.purpose, Reason.UNAVAILABLE, -1)]


@pytest.mark.parametrize("lost", [None, b"", b"\x00" * 16])
def test_once_the_projection_is_lost_the_next_word_deletes_the_row_be_it_of_consent_or_of_values(
    client: redis.Redis, lost: bytes | None
) -> None:
    one, two = (PEOPLE.keys[i] for i in PRESENT[:2])
    for key in (one, two):
        client.delete(redis_projection.consent_key(key))
        if lost is not None:
            client.set(redis_projection.consent_key(key), lost)
    bring_online(client, VIEW, PEOPLE, as_of=AS_OF + HOUR)
    assert client.exists(row_key(one), row_key(two)) == 0
    client.set(row_key(two), b"a row that was put back by hand")
    redis_projection.write(client, {two: PEOPLE.standing[two]}, seq=9, now=AS_OF)
    assert client.exists(row_key(two)) == 0


def test_a_consent_word_makes_no_row_where_there_is_none(client: redis.Redis) -> None:
    reader.erase(client, KEY)
    redis_projection.write(client, without(KEY, OTHER), seq=2, now=AS_OF)
    assert client.exists(*(k for p in Purpose for k in redis_projection.feature_keys(KEY, p))) == 0


def test_with_people_changing_their_minds_amid_writers_a_copy_never_differs_and_an_acknowledged_word_is_obeyed(
    client: redis.Redis, redis_server: Settings
) -> None:
    done = threading.Event()

    def write_rows_of_all_sorts_of_moments(seed: int) -> int:
        mine, random, rounds = connect(redis_server), np.random.default_rng(seed), 0
        while not done.is_set():
            bring_online(mine, VIEW, PEOPLE, as_of=AS_OF + timedelta(seconds=rounds + int(random.integers(3))))
            rounds += 1
        return rounds

    random, keys, now = np.random.default_rng(3), [PEOPLE.keys[i] for i in PRESENT], AS_OF + HOUR
    with ThreadPoolExecutor(max_workers=2) as pool:
        writers = [pool.submit(write_rows_of_all_sorts_of_moments, seed) for seed in range(2)]
        try:
            for seq in range(2, 300):
                key, yes = keys[int(random.integers(len(keys)))], bool(random.random() < 0.5)
                said = {key: PEOPLE.standing[key]} if yes else without(key, OTHER)
                redis_projection.write(client, said, seq=seq, now=AS_OF)
                if random.random() < 0.3:
                    redis_projection.write(client, {key: PEOPLE.standing[key]}, seq=seq - 1, now=AS_OF)
                got = read(client, key, now=now)
                meant = (True, MINE, Reason.GRANTED) if yes else (False, OTHER, Reason.WITHDRAWN)
                assert got.decisions == [Decision(*meant, seq)]
                assert got.status[0, 0] == (Status.PRESENT if yes else Status.DENIED)
                assert all(copy is not None and copy == told for told, copy in copies(client, keys))
        finally:
            done.set()
    assert min(writer.result() for writer in writers) > 1


def test_longest_and_endless_grants_fit_the_copy(client: redis.Redis) -> None:
    grants = {
        p: ([Grant(KEY, p, AS_OF - HOUR, AS_OF + LONGEST_GRANT, Reason.EXPIRED)], Reason.EXPIRED) for p in Purpose
    }
    grants[OTHER] = ([Grant(KEY, OTHER, AS_OF - HOUR, FOREVER, Reason.OBJECTED)], Reason.OBJECTED)
    redis_projection.write(client, {KEY: grants}, seq=2**40, now=AS_OF)
    told = redis_projection.unpack([client.get(redis_projection.consent_key(KEY))])[0]  # type: ignore[list-item]
    assert told["seq"][0] == 2**40
    assert told["grants"]["end"][0, redis_projection.slot(OTHER)] == reader.to_micros(FOREVER)
    assert client.exists(row_key(KEY)) == 0, "another grant than the row was made under"


@pytest.mark.parametrize("keys", [["a", "longer", "the longest of them"], ["abc", "äöü", "xyz"]])
def test_people_whose_keys_are_of_several_lengths_are_written_side_by_side_each_with_their_own_row(
    client: redis.Redis, keys: list[str]
) -> None:
    standing = dict.fromkeys(keys, PEOPLE.standing[KEY])
    redis_projection.write(client, standing, seq=1, now=AS_OF)
    start = reader.to_micros(standing[keys[0]][MINE][0][0].start)
    at, n = reader.to_micros(AS_OF), len(keys)
    values = np.arange(n)[:, None] + np.zeros((n, len(VIEW.numbers)))
    packed = pack_rows(VIEW, values, as_of=at, valid_until=np.full(n, NEVER), grant_start=np.full(n, start))
    rows = OnlineRows(keys, packed, [b""] * n, np.full(n, at), np.full(n, start))
    assert reader.write_many(client, VIEW, [rows]) == (n, 0)
    got = reader.read(client, VIEW, keys, purposes=[MINE], now=AS_OF)
    np.testing.assert_array_equal(got.values, values)


def test_rows_that_lie_together_are_cut_as_if_they_lay_apart() -> None:
    rows = [b"one", b"", b"three", b"4"]
    packed = PackedRows.of(rows)
    assert (list(packed), len(packed), packed[2], packed[-1]) == (rows, 4, b"three", b"4")
    for first in range(5):
        for end in range(6):
            assert list(packed[first:end]) == rows[first:end]
            assert packed[first:end].joined() == b"".join(rows[first:end])
    with pytest.raises(IndexError):
        packed[4]
