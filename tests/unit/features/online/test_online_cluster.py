"""On a Redis Cluster of three nodes everything works as on one server: write, read, newest-wins, withdraw, erase."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import redis

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.consent.policy import Decision, Grant, Reason
from aap.consent.purposes import Purpose
from aap.features.datasets import Status
from aap.features.online import reader
from aap.infra.errors import RedisUnavailable
from aap.infra.redis import lua
from aap.infra.redis.connection import connect, connect_async, status
from aap.security.rate_limit import RateLimit
from aap.serving.inference.async_predictor import AtHand
from benchmarks.online_read import bring_online
from benchmarks.support.synthetic_users import AS_OF, Crowd, crowd, project, the_view
from tests.unit.features.cluster import NODES, three_nodes
from tests.waiting import PATIENCE_S

VIEW, PEOPLE = the_view(), crowd(600)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with three_nodes(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def clustered(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AAP_REDIS_URL", url)
    monkeypatch.setenv("AAP_REDIS_CLUSTER", "true")
    return load_settings(home)


@pytest.fixture
def client(clustered: Settings) -> Iterator[redis.Redis]:
    made = connect(clustered)
    made.flushall()
    project(made, PEOPLE)
    bring_online(made, VIEW, PEOPLE)
    yield made
    made.close()


def read(client: redis.Redis, keys: list[str]) -> reader.OnlineValues:
    return reader.read(client, VIEW, keys, purposes=[VIEW.purpose], now=AS_OF)


def test_the_event_loop_reads_all_nodes_as_a_thread_does(
    clustered: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.infra.redis.connection._IMPATIENT_S", PATIENCE_S)
    monkeypatch.setattr("aap.security.rate_limit._ASKED_S", PATIENCE_S)

    async def scene() -> reader.OnlineValues:
        connected = await asyncio.to_thread(connect_async, clustered)
        hand = AtHand(connected, lambda over: over)
        found = await hand.ask("test", lambda over: read(over, list(PEOPLE.keys)))
        told = [await RateLimit(connected, per_minute=3).take(who) for who in ("one", "two", "one")]
        assert [(t.allowed, t.remaining) for t in told if t] == [(True, 2), (True, 2), (True, 1)]
        await connected.aclose()
        return found

    quick, patient = asyncio.run(scene()), read(client, list(PEOPLE.keys))
    np.testing.assert_array_equal(quick.values, patient.values)
    np.testing.assert_array_equal(quick.status, patient.status)
    assert quick.decisions == patient.decisions


def test_what_is_written_on_all_nodes_is_read_back_in_order(client: redis.Redis) -> None:
    assert lua.is_cluster(client)
    places = PEOPLE.with_values()
    slots = {lua.slot_of(client, redis_projection.consent_key(k)) * NODES // 16_384 for k in PEOPLE.keys}
    assert slots == {0, 1, 2}, "people on every node"
    got = read(client, PEOPLE.keys)
    np.testing.assert_array_equal(got.values[places], PEOPLE.values[places])
    assert (got.status[places] == Status.PRESENT).all()
    without = sorted(set(range(len(PEOPLE.keys))) - set(places))
    assert (got.status[without] >= Status.NOT_FOUND).all()


def test_the_newest_row_wins_there_too(client: redis.Redis) -> None:
    key = PEOPLE.keys[PEOPLE.with_values()[0]]
    older = Crowd(PEOPLE.keys, PEOPLE.values + 1, PEOPLE.standing, PEOPLE.missing)
    before = read(client, [key]).values
    bring_online(client, VIEW, older, as_of=AS_OF - timedelta(hours=1))
    np.testing.assert_array_equal(read(client, [key]).values, before)


def test_who_withdraws_there_is_denied_and_forgotten(client: redis.Redis) -> None:
    key = PEOPLE.keys[PEOPLE.with_values()[0]]
    (grant,) = PEOPLE.standing[key][VIEW.purpose][0]
    ended = Grant(key, grant.purpose, grant.start, AS_OF, Reason.WITHDRAWN)
    redis_projection.write(
        client, {key: {**PEOPLE.standing[key], VIEW.purpose: ([ended], Reason.WITHDRAWN)}}, seq=2, now=AS_OF
    )
    got = read(client, [key])
    assert (got.status == Status.DENIED).all()
    assert got.decisions[0].reason is Reason.WITHDRAWN
    assert client.exists(*redis_projection.feature_keys(key, VIEW.purpose)) == 0


def test_who_withdraws_another_purpose_there_keeps_the_row_and_is_denied_by_its_copy(client: redis.Redis) -> None:
    other, keys = Purpose.PERSONALIZE_PROFILED, [PEOPLE.keys[i] for i in PEOPLE.with_values()[:20]]
    said = {}
    for key in keys:
        (grant,) = PEOPLE.standing[key][other][0]
        ended = Grant(key, other, grant.start, AS_OF, Reason.WITHDRAWN)
        said[key] = {**PEOPLE.standing[key], other: ([ended], Reason.WITHDRAWN)}
    redis_projection.write(client, said, seq=2, now=AS_OF)
    both = reader.read(client, VIEW, keys, purposes=[VIEW.purpose, other], now=AS_OF)
    assert both.decisions == [Decision(False, other, Reason.WITHDRAWN, 2)] * len(keys)
    np.testing.assert_array_equal(read(client, keys).values, PEOPLE.values[PEOPLE.with_values()[:20]])
    for key in keys:
        told, row = client.mget(
            [redis_projection.consent_key(key), redis_projection.feature_keys(key, VIEW.purpose)[0]]
        )  # type: ignore[misc]
        assert row[: redis_projection.ROW.itemsize] == told


def test_who_is_erased_there_leaves_no_key_with_features(client: redis.Redis) -> None:
    key, other = (PEOPLE.keys[i] for i in PEOPLE.with_values()[:2])
    client.set(redis_projection.feature_keys(key, Purpose.ANALYTICS_REPORTING)[1], b"a timetable")
    assert reader.erase(client, key) == 2
    assert [k for p in Purpose for k in redis_projection.feature_keys(key, p) if client.exists(k)] == []
    got = read(client, [key, other])
    assert (got.status[0] == Status.NOT_FOUND).all()
    assert (got.status[1] == Status.PRESENT).all()


def test_a_cluster_that_is_not_there_is_told_at_once(clustered: Settings) -> None:
    assert status(clustered).running
    nowhere = clustered.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    assert not status(nowhere).running
    with pytest.raises(RedisUnavailable, match="doesn't answer"):
        connect(nowhere)
