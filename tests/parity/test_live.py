"""Live events reach the online features once each, whatever happens to the workers, and equal a batch rebuild."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import redis

from consent import projection
from consent.policy import Status
from consent.purposes import Purpose
from events.log import RedisStreamLog
from feature_repo import live_fold
from feature_repo.declare import Entity
from feature_repo.live_rows import state_key
from feature_repo.views import view_for
from storage.redis_server import connect
from tests.feature_repo.store_room import CUSTOMERS, REPORTING, RETENTION, StoreRoom
from tests.parity.live_shop import LiveShop, purchase

ANA, BEA = CUSTOMERS[:2]


@pytest.fixture
def shop(room: StoreRoom) -> LiveShop:
    made = LiveShop(room)
    made.later(minutes=1)
    return made


def burst(shop: LiveShop, count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Purchases of everyone; some out of order, some late by days, some sent twice."""
    random = np.random.default_rng(first + 1)
    made = []
    for i in range(first, first + count):
        late = timedelta(days=int(random.integers(0, 40))) if i % 5 == 0 else timedelta(seconds=i * 37 % 3_000)
        made.append(purchase(i, CUSTOMERS[i % len(CUSTOMERS)], shop.now - late))
    return [*made, *made[::7]]


def test_a_live_event_is_in_the_vector_without_a_build(shop: LiveShop) -> None:
    shop.room.put_online(RETENTION)
    count = view_for(Entity.USER, RETENTION).numbers
    place = next(i for i, f in enumerate(count) if f.name == "basket_count_ever")
    before = shop.room.read(RETENTION, ANA, now=shop.now).values[0, place]
    shop.collect(purchase(1, ANA, shop.now))
    assert shop.settle() == 1
    assert shop.room.read(RETENTION, ANA, now=shop.now).values[0, place] == before + 1


def test_history_and_live_events_together_are_what_a_rebuild_says_now_and_as_time_goes_by(shop: LiveShop) -> None:
    shop.collect(*burst(shop, 80))
    shop.settle()
    shop.assert_as_rebuilt(*CUSTOMERS)
    steps: list[dict[str, float]] = [{"hours": 9}, {"days": 6, "hours": 3}, {"days": 20}]
    for step in steps:
        shop.later(**step)
        shop.assert_as_rebuilt(*CUSTOMERS)
    shop.collect(*burst(shop, 40, first=500))
    shop.settle()
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_events_archived_before_they_were_folded_count_once(shop: LiveShop) -> None:
    shop.worker().step()
    shop.collect(*burst(shop, 40))
    assert shop.drain().archived.total() == 40
    shop.worker("two")
    shop.workers[0]._group.leave()
    assert shop.settle() == 40
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_the_drain_keeps_what_was_not_folded_and_lets_go_of_what_was(shop: LiveShop) -> None:
    shop.worker().step()
    log = RedisStreamLog(connect(shop.room.settings))
    shop.collect(*burst(shop, 20))
    shop.drain()
    client = connect(shop.room.settings)
    held = lambda: sum(client.xlen(f"{{log:{p}}}:events") for p in range(4))  # noqa: E731
    assert (log.waiting(), held()) == (0, 20)
    shop.settle()
    shop.drain()
    assert (log.waiting(), held()) == (0, 0)


def test_a_batch_delivered_again_after_it_was_written_has_no_second_effect(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.collect(*burst(shop, 40))
    dies = shop.worker("dies")

    def die(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        killed.setattr(dies._group, "acknowledge", die)
        dies.step()
    shop.bury(dies)
    shop.worker("takes over")
    assert shop.settle() == 40
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_a_worker_killed_half_way_through_its_writes_is_taken_over_and_nothing_is_lost_or_doubled(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.collect(*burst(shop, 60))
    dies, real = shop.worker("dies"), live_fold.write

    def half(client: redis.Redis, plan: Any, rows: Any) -> list[bool]:
        real(client, plan, rows[: len(rows) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        killed.setattr(live_fold, "write", half)
        dies.step()
    shop.bury(dies)
    shop.worker("takes over", most=7)
    assert shop.settle() == 60
    shop.assert_as_rebuilt(*CUSTOMERS)


def test_two_workers_share_the_partitions_and_a_third_s_leaving_is_noticed(shop: LiveShop) -> None:
    workers = [shop.worker(name) for name in ("one", "two")]
    for _ in range(3):
        for worker in workers:
            worker._balanced = 0.0
            worker.step()
    assert sorted(len(w._group.partitions) for w in workers) == [2, 2]
    workers[0]._group.leave()
    workers[1]._balanced = 0.0
    workers[1].step()
    assert workers[1]._group.partitions == {0, 1, 2, 3}


def test_a_worker_that_lost_its_lease_reads_nothing_more(shop: LiveShop) -> None:
    asleep = shop.worker("asleep")
    asleep.step()
    shop.bury(asleep)
    awake = shop.worker("awake")
    awake.step()
    shop.collect(*burst(shop, 16))
    assert asleep.step() == 0
    assert shop.settle() == 16


def test_a_withdrawal_takes_the_live_state_with_it_and_a_new_grant_starts_afresh(shop: LiveShop) -> None:
    shop.collect(purchase(1, ANA, shop.now), purchase(2, BEA, shop.now))
    shop.settle()
    client, key = connect(shop.room.settings), shop.room.key(ANA)
    assert client.exists(state_key(key, RETENTION)) == 1
    shop.later(seconds=1)
    shop.room.say(ANA, RETENTION, Status.WITHDRAWN, at=shop.now)
    assert client.exists(*projection.feature_keys(key, RETENTION)) == 0
    shop.collect(purchase(3, ANA, shop.now))
    shop.settle()
    assert client.exists(*projection.feature_keys(key, RETENTION)) == 0
    shop.later(seconds=1)
    shop.room.say(ANA, RETENTION, Status.GIVEN, at=shop.now)
    shop.later(seconds=1)
    shop.collect(purchase(4, ANA, shop.now), purchase(5, ANA, shop.now - timedelta(days=3)))
    shop.settle()
    shop.assert_as_rebuilt(ANA, BEA)


def test_a_choice_between_fetching_and_writing_is_obeyed(shop: LiveShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.collect(purchase(1, ANA, shop.now))
    real = live_fold.write

    def write(client: redis.Redis, plan: Any, rows: Any) -> list[bool]:
        if plan.view.purpose is RETENTION:
            shop.later(seconds=1)
            shop.room.say(ANA, RETENTION, Status.WITHDRAWN, at=shop.now)
            monkeypatch.setattr(live_fold, "write", real)
        return real(client, plan, rows)

    monkeypatch.setattr(live_fold, "write", write)
    shop.settle()
    assert connect(shop.room.settings).exists(*projection.feature_keys(shop.room.key(ANA), RETENTION)) == 0


def test_materializing_doesn_t_undo_live_events_and_renews_live_rows(shop: LiveShop) -> None:
    from pipelines.publish import bring_online

    shop.room.build(as_of=shop.now)
    shop.collect(purchase(1, ANA, shop.now), purchase(2, ANA, shop.now))
    shop.settle()
    shop.later(days=30)
    from feature_repo.store import apply

    apply(shop.room.settings)
    bring_online(shop.room.settings, as_of=shop.now)
    shop.later(days=30)
    shop.assert_as_rebuilt(ANA)


def test_an_event_a_year_late_and_one_known_since_before_the_log_remembers(shop: LiveShop) -> None:
    shop.room.say(ANA, Purpose.MARKETING_RETENTION, Status.GIVEN, at=shop.now)
    late = purchase(1, ANA, shop.now - timedelta(days=170))
    shop.collect(late)
    shop.settle()
    shop.drain()
    shop.later(days=36)
    client = connect(shop.room.settings)
    for key in client.scan_iter("{log:*}:id:*"):
        client.delete(key)  # what Redis does after five weeks
    assert shop.collect(late, purchase(2, ANA, shop.now)).accepted == 2
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_ten_thousand_events_of_one_person_in_one_batch(shop: LiveShop) -> None:
    log = RedisStreamLog(connect(shop.room.settings))
    from events.log import LoggedEvent
    from feature_repo.online import to_micros

    at, key = to_micros(shop.now), shop.room.key(ANA)
    fields = {"basket_id": "b", "item_id": "i", "quantity": 1, "amount": 100, "department": "g"}
    log.append([LoggedEvent("web", f"m{i}", "product_purchased", key, at - i, at, fields) for i in range(10_000)])
    shop.worker(most=20_000)
    assert shop.settle() == 10_000
    shop.assert_as_rebuilt(ANA)


def test_values_are_nothing_where_the_live_state_is_damaged(shop: LiveShop) -> None:
    shop.collect(purchase(1, ANA, shop.now))
    shop.settle()
    client, key = connect(shop.room.settings), state_key(shop.room.key(ANA), REPORTING)
    client.set(key, (client.get(key) or b"")[:40])
    shop.collect(purchase(2, ANA, shop.now))
    shop.settle()
    shop.assert_as_rebuilt(ANA)


def test_redis_going_away_in_mid_write_loses_nothing(shop: LiveShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.collect(*burst(shop, 40))
    worker, real, failed = shop.worker(), live_fold.write, []

    def flaky(client: redis.Redis, plan: Any, rows: Any) -> list[bool]:
        done = real(client, plan, rows[: 1 + len(rows) // 3])
        if len(failed) < 5:
            failed.append(1)
            raise redis.exceptions.ConnectionError("gone")
        return done + real(client, plan, rows[1 + len(rows) // 3 :])

    monkeypatch.setattr(live_fold, "write", flaky)
    monkeypatch.setattr("pipelines.live._REDIS_BACK_S", 0.01)
    worker.run(lambda: worker.folded >= 40)
    shop.assert_as_rebuilt(*CUSTOMERS)


