"""Live features on a Redis Cluster of three nodes: log, leases and rows are spread over all of them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from aap.config import load_settings
from aap.consent import redis_projection
from aap.consent.policy import LONGEST_GRANT, Grant, Reason
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.events.streaming.consumer_group import behind
from aap.events.streaming.event_log import RedisStreamLog
from aap.infra.object_store import archive_folder
from aap.infra.redis.connection import connect
from aap.jobs.streaming.worker import LiveWorker
from benchmarks.streaming import PURPOSES, Shop
from tests.unit.features.cluster import three_nodes

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_events_on_a_cluster_reach_their_people_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with three_nodes(tmp_path / "cluster") as url:
        monkeypatch.setenv("AAP_REDIS_URL", url)
        monkeypatch.setenv("AAP_REDIS_CLUSTER", "true")
        settings = load_settings(home)
        monkeypatch.setattr(type(settings), "now", lambda _: NOW)
        people = [f"{i * 2_654_435_761 % 2**32:08x}{i:024x}" for i in range(60)]
        begun = NOW - timedelta(days=1)
        standings = {
            key: {
                p: ([Grant(key, p, begun, begun + LONGEST_GRANT, Reason.EXPIRED)], Reason.NOT_GRANTED) for p in Purpose
            }
            for key in people
        }
        shop = Shop(settings, connect(settings), people, PURPOSES, np.random.default_rng(1))
        redis_projection.write(shop.client, standings, seq=1, now=NOW)
        log = RedisStreamLog(shop.client)
        sent = shop.events(500, first=0)
        assert all(log.append(sent))
        assert not any(log.append(sent[:7]))
        workers = [
            LiveWorker(shop.client, Archive(archive_folder(settings)), settings.now, name=name)
            for name in ("one", "two")
        ]
        for _ in range(3):
            for worker in workers:
                worker.balance()
        assert sum(worker.step() for worker in workers) == 500
        assert shop.counts() == Counter(e.user_key for e in sent)
        for worker in workers:
            worker.balance()
        told = behind(shop.client)
        assert told is not None
        assert told.events == 0
        shop.client.close()
