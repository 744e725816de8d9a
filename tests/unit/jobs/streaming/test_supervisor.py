"""`aap live` as it is run: real worker processes, killed in mid-run."""

from __future__ import annotations

import os
import signal
import time

import pytest
import redis

from aap.events.streaming.consumer_group import behind
from aap.events.streaming.event_log import RedisStreamLog
from aap.infra.redis import connection
from benchmarks.streaming import Shop, burst_of, shop_of
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.full


def test_workers_killed_with_sigkill_in_mid_run_lose_nothing_and_count_nothing_twice() -> None:
    with shop_of(300) as shop:
        found, killed = burst_of(shop, 16_000, workers=2, kills=2)
    assert killed > 0
    assert (found.lost, found.double) == (0, 0)


def _send(shop: Shop, first: int) -> int:
    """Send 1,000 events until they are acknowledged, as an app does; returns how many."""
    batch = shop.events(1_000, first=first)
    while True:
        try:
            RedisStreamLog(shop.client).append(batch)
        except redis.RedisError:
            time.sleep(0.1)
        else:
            return len(batch)


def test_redis_killed_and_started_again_while_workers_write_loses_nothing_that_was_accepted() -> None:
    with shop_of(300) as shop, shop.live(workers=1, drain_every=0.5):
        sent = sum(_send(shop, first) for first in range(0, 5_000, 1_000))
        killed = connection.status(shop.settings).pid
        assert killed
        os.kill(killed, signal.SIGKILL)
        connection.ensure_running(shop.settings)
        sent += sum(_send(shop, first) for first in range(5_000, 10_000, 1_000))
        deadline = time.monotonic() + PATIENCE_S
        while (sum(shop.counts().values()), shop.archived()) != (sent, sent) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (sum(shop.counts().values()), shop.archived()) == (sent, sent)
        # A worker tells how far it is after it has written, once a while.
        while ((told := behind(shop.client)) is None or told.events) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert told is not None
        assert told.events == 0
