"""A live worker waits for events without asking for them, and takes all there are when it is behind."""

from __future__ import annotations

import time
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import pytest

from aap.events.streaming.columns import LoggedEvent
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.declarations import Entity
from aap.features.online.reader import to_micros
from aap.features.views import view_for
from aap.infra.redis.connection import connect
from tests.parity.live_shop import LiveShop
from tests.unit.features.store_room import CUSTOMERS, RETENTION, StoreRoom
from tests.waiting import until

ANA = CUSTOMERS[0]
FIELDS = {"basket_id": "b", "item_id": "i", "quantity": 1, "amount": 100, "department": "g"}


@pytest.fixture
def shop(room: StoreRoom) -> LiveShop:
    made = LiveShop(room)
    made.later(minutes=1)
    return made


def bought(shop: LiveShop, number: int, *, ahead: timedelta = timedelta()) -> LoggedEvent:
    at = to_micros(shop.now)
    return LoggedEvent(
        "web",
        f"w{number}",
        "product_purchased",
        shop.room.key(ANA),
        at + ahead // timedelta(microseconds=1),
        at,
        FIELDS,
    )


def spent(shop: LiveShop) -> float:
    place = view_for(Entity.USER, RETENTION).names.index("amount_sum_ever")
    return float(shop.room.read(RETENTION, ANA, now=shop.now).values[0, place])


def test_a_worker_with_nothing_to_do_asks_redis_next_to_nothing_and_still_sees_the_next_event(shop: LiveShop) -> None:
    client, worker, stop = connect(shop.room.settings), shop.worker(), Event()
    worker.step()

    def asked() -> int:
        told: Any = client.info("stats")
        return int(told["total_commands_processed"])

    running = Thread(target=worker.run, args=(stop.is_set,))
    running.start()
    try:
        while worker.tend(busy=False):
            pass
        time.sleep(0.6)
        before = asked()
        time.sleep(1.5)
        assert asked() - before < 200  # some 400 a second if it looked again every few milliseconds
        RedisStreamLog(client).append([bought(shop, 1)])
        until(lambda: worker.folded)
        assert worker.folded == 1
    finally:
        stop.set()
        running.join()


def test_what_is_waited_for_is_the_partition_something_came_in(shop: LiveShop) -> None:
    worker, partition = shop.worker(), int(shop.room.key(ANA)[:8], 16) % 4
    worker.step()
    assert not worker.ready(wait=False)
    RedisStreamLog(connect(shop.room.settings)).append([bought(shop, 1)])
    assert worker.ready(wait=True) == {partition}
    assert worker.step({(partition + 1) % 4}) == 0
    assert worker.step({partition}) == 1
    assert not worker.ready(wait=False)


def test_an_event_that_begins_to_count_later_is_waited_for(shop: LiveShop) -> None:
    worker = shop.worker()
    RedisStreamLog(connect(shop.room.settings)).append([bought(shop, 1), bought(shop, 2, ahead=timedelta(minutes=1))])
    worker.step()
    before = spent(shop)
    assert not worker.ready(wait=False)
    shop.later(minutes=2)
    (partition,) = worker.ready(wait=True) or set()
    worker.step({partition})
    assert spent(shop) == before + 1.0


def test_a_worker_that_is_behind_takes_all_there_is_at_once_up_to_its_most(shop: LiveShop) -> None:
    log = RedisStreamLog(connect(shop.room.settings))
    for number in range(120):
        log.append([bought(shop, number)])
    worker = shop.worker(most=7)
    assert worker.step() == 7
    worker.most = 1_000
    assert worker.step() == 113
    assert worker.step() == 0


@pytest.mark.parametrize(("most", "looks"), [(1_000, 4), (2, 2)], ids=["while more come", "until a batch is full"])
def test_a_worker_that_is_behind_lets_events_gather(
    shop: LiveShop, monkeypatch: pytest.MonkeyPatch, most: int, looks: int
) -> None:
    log, worker, slept = RedisStreamLog(connect(shop.room.settings)), shop.worker(most=most), list[float]()
    worker.step()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) <= 3:
            log.append([bought(shop, len(slept))])

    monkeypatch.setattr("aap.jobs.streaming.worker._GATHER_S", 1_000.0)
    monkeypatch.setattr("aap.jobs.streaming.worker.time.sleep", sleep)
    worker._gather(at_most_s=1_000.0)
    assert len(slept) == looks
