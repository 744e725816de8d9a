"""Concurrent writers, a server that dies in mid-write, a clock that runs backwards: the right value, or none."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings as examples, strategies as st

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.consent.policy import Status as Choice
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.online import reader, writer as online_writer
from aap.features.online.row_codec import pack_timetable, timetable_of
from aap.features.views import view_for
from aap.infra.redis import connection, embedded_server
from aap.infra.redis.connection import connect
from tests.unit.features.store_room import AS_OF, CUSTOMERS, RETENTION, StoreRoom
from tests.waiting import PATIENCE_S

DAY = timedelta(days=1)
WRITERS, LOTS = 4, 40


def _write_in_random_order(home: str, rows: list[reader.OnlineRow], seed: int) -> None:
    settings = load_settings(Path(home))
    client, view = connect(settings), view_for(Entity.USER, RETENTION)
    random = np.random.default_rng(seed)
    for _ in range(LOTS):
        mixed = random.permutation(len(rows))
        reader.write(client, view, [rows[i] for i in mixed[: len(rows) // 2]])
    reader.write(client, view, [rows[i] for i in random.permutation(len(rows))])


def test_with_writers_in_several_processes_the_newest_row_is_what_stays(room: StoreRoom) -> None:
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    by_day = [room.rows(view, as_of=AS_OF + day * DAY) for day in range(5)]
    rows = [row for day in by_day for row in day]
    spawn = multiprocessing.get_context("spawn")
    home = str(room.settings.home)
    writers = [spawn.Process(target=_write_in_random_order, args=(home, rows, seed)) for seed in range(WRITERS)]
    for writer in writers:
        writer.start()
    gone = room.key("customer-3")
    room.say("customer-3", RETENTION, Choice.WITHDRAWN, at=AS_OF + timedelta(minutes=1))
    for writer in writers:
        writer.join(timeout=PATIENCE_S)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    for row in by_day[-1]:
        consent, *held = client.mget(
            [redis_projection.consent_key(row.user_key), *redis_projection.feature_keys(row.user_key, RETENTION)]
        )  # type: ignore[misc]
        expected = [None, None] if row.user_key == gone else [consent + row.row, row.timetable or None]
        assert held == expected, "row and timetable of the newest, or nothing of who withdrew meanwhile"


def test_a_slow_writer_does_not_bring_back_what_a_withdrawal_deleted(room: StoreRoom) -> None:
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    (row,) = [r for r in room.rows(view) if r.user_key == room.key("customer-2")]
    room.say("customer-2", RETENTION, Choice.WITHDRAWN, at=AS_OF + timedelta(minutes=1))
    assert reader.write(client, view, [row]) == (0, 1)
    assert client.exists(*redis_projection.feature_keys(row.user_key, RETENTION)) == 0


def test_one_lot_may_hold_several_rows_of_a_person_in_any_order(room: StoreRoom) -> None:
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    rows = [row for day in range(4) for row in room.rows(view, as_of=AS_OF + day * DAY)]
    mine = [row for row in rows if row.user_key == room.key("customer-1")]
    for order in ([3, 0, 2, 1], [0, 1, 2, 3], [3, 2, 1, 0]):
        reader.erase(client, mine[0].user_key)
        reader.write(client, view, [mine[i] for i in order])
        held = client.get(redis_projection.feature_keys(mine[0].user_key, RETENTION)[0])
        assert isinstance(held, bytes)
        assert held[redis_projection.ROW.itemsize :] == mine[3].row


def test_after_redis_was_killed_in_mid_write_materializing_again_gives_the_right_values(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = StoreRoom.fill(settings, seed=5)
    monkeypatch.setattr(Settings, "now", lambda _: AS_OF)
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    rows = room.rows(view)
    monkeypatch.setattr(online_writer, "_PER_TRIP", 2)

    def killed_on_the_way() -> Iterator[reader.OnlineRow]:
        yield from rows[:5]
        state = embedded_server.read_state(room.layout)
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
        yield from rows[5:]

    with pytest.raises(connection.UNREACHABLE):
        reader.write(client, view, killed_on_the_way())
    connection.ensure_running(room.settings)
    assert room.put_online(RETENTION) == (len(rows), 0)
    offline = room.offline(RETENTION, *CUSTOMERS, at=AS_OF)
    np.testing.assert_allclose(room.read(RETENTION, *CUSTOMERS).values, offline, rtol=1e-12)


def test_a_clock_set_back_reads_the_newest_row_and_never_an_older_one(room: StoreRoom) -> None:
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    ahead = room.rows(view, as_of=AS_OF + 2 * DAY)
    reader.write(client, view, ahead)
    assert room.put_online(RETENTION) == (0, len(ahead)), "what is older than what is there is left out"
    back = room.read(RETENTION, *CUSTOMERS, now=AS_OF)
    then = room.read(RETENTION, *CUSTOMERS, now=AS_OF + 2 * DAY)
    assert (back.status <= Status.NULL).all()
    steady = [i for i, since in enumerate(view.since) if not since]
    np.testing.assert_array_equal(back.values[:, steady], then.values[:, steady])
    assert np.nanmin(back.values[:, view.since_places]) >= 0, "nothing is known to have happened in the future"


def test_a_clock_before_the_grant_denies(room: StoreRoom) -> None:
    room.put_online(RETENTION)
    assert (room.read(RETENTION, "customer-0", now=AS_OF - 400 * DAY).status == Status.DENIED).all()


def test_a_row_replaced_between_the_two_looks_is_read_whole(room: StoreRoom) -> None:
    view, client = view_for(Entity.USER, RETENTION), connect(room.settings)
    room.put_online(RETENTION)
    newer = room.rows(view, as_of=AS_OF + 9 * DAY)

    class Overtaken:
        looks = 0

        def mget(self, keys: list[str]) -> object:
            self.looks += 1
            if self.looks == 2:
                reader.write(client, view, newer)
            return client.mget(keys)

    now = AS_OF + 9 * DAY
    got = reader.read(Overtaken(), view, room.keys(*CUSTOMERS), purposes=[RETENTION], now=now)  # type: ignore[arg-type]
    offline = room.offline(RETENTION, *CUSTOMERS, at=now)
    np.testing.assert_allclose(got.values, offline, rtol=1e-12)


@examples(max_examples=60)
@given(data=st.data())
def test_a_timetable_says_what_each_later_row_said(data: st.DataObject) -> None:
    view = view_for(Entity.USER, RETENTION)
    width, steps = len(view.numbers), data.draw(st.integers(1, 6))
    value = st.sampled_from([0.0, 1.0, 2.5, float("nan")])
    rows = np.array([[data.draw(value) for _ in range(width)] for _ in range(steps + 1)])
    moments = np.cumsum([data.draw(st.integers(1, 100)) for _ in range(steps)])
    blob = pack_timetable(view, rows[0], moments, rows[1:], as_of=0, grant_start=7)
    entries = timetable_of(view, blob, as_of=0, grant_start=7)
    assert entries is not None
    for now in range(int(moments[-1]) + 2):
        told = rows[0].copy()
        due = entries[: int(np.searchsorted(entries["moment"], now, side="right"))]
        told[due["place"]] = due["value"]
        np.testing.assert_array_equal(told, rows[int(np.searchsorted(moments, now, side="right"))])
    assert timetable_of(view, blob, as_of=1, grant_start=7) is None
    assert timetable_of(view, blob[:-1], as_of=0, grant_start=7) is None
