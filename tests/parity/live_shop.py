"""Live purchases in the shop of the feature tests, and what a batch rebuild would say of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np

from aap.consent.purposes import Purpose
from aap.consent.service import open_desk, open_ledger
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.archiver import Drained, drain
from aap.events.streaming.collector import Collected, Collector
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.declarations import Entity
from aap.features.offline.build import build_one
from aap.features.online.materialize import sequences_at
from aap.features.views import view_for
from aap.infra.object_store import archive_folder
from aap.infra.redis.connection import connect
from aap.jobs.streaming.worker import LiveWorker
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms
from tests.unit.features.store_room import StoreRoom

PURPOSES = (
    Purpose.MARKETING_RETENTION, Purpose.PERSONALIZE_PROFILING, Purpose.ANALYTICS_REPORTING,
    Purpose.ESSENTIAL_FRAUD_DETECTION,
)  # fmt: skip


def purchase(number: int, user: str, at: datetime, **changes: Any) -> dict[str, Any]:
    """One purchase line as an app sends it."""
    properties = {
        "basket_id": f"live-{number // 2}", "item_id": f"i{number % 15}", "quantity": 1 + number % 3,
        "amount": f"{1 + number % 40}.{number % 100:02d}", "department": f"g{number % 5}", "store_id": f"l{number % 4}",
    } | changes  # fmt: skip
    return {
        "source": "web", "id": f"live-{number}", "type": "product_purchased", "user_id": user,
        "occurred_at": at.isoformat(), "properties": properties,
    }  # fmt: skip


@dataclass
class LiveShop:
    """The shop with a collector, workers on its log, and its drain."""

    room: StoreRoom
    workers: list[LiveWorker] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.room.clock[0]

    @now.setter
    def now(self, at: datetime) -> None:
        self.room.clock[0] = at

    def collect(self, *events: dict[str, Any]) -> Collected:
        layout, client = self.room.layout, connect(self.room.settings)
        return Collector(
            client, RedisStreamLog(client), open_desk(self.room.settings), RejectedLog(layout.rejected),
            load_pseudonyms(layout), open_id_map(self.room.settings),
        ).collect(events, now=self.now)  # fmt: skip

    def worker(self, name: str = "one", *, most: int = 4_000, lease_ms: int = 60_000) -> LiveWorker:
        made = LiveWorker(
            connect(self.room.settings), Archive(archive_folder(self.room.settings)), lambda: self.now, name=name, most=most,
            lease_ms=lease_ms,
        )  # fmt: skip
        self.workers.append(made)
        return made

    def bury(self, worker: LiveWorker, *, long_ago: bool = False) -> None:
        """What time does once a worker is dead: its leases run out, and in the end its place is forgotten."""
        client = connect(self.room.settings)
        names = ("lease", "at", "folded") if long_ago else ("lease",)
        client.delete(*(f"{{log:{p}}}:live:{name}" for p in range(4) for name in names))
        client.zrem("live:workers", worker.name)

    def settle(self) -> int:
        """Let the worker (one, made when there is none) take everything there is."""
        worker = self.workers[-1] if self.workers else self.worker()
        done = 0
        while taken := worker.step():
            done += taken
        while worker.tend(busy=False):
            pass
        return done

    def drain(self) -> Drained:
        log = RedisStreamLog(connect(self.room.settings))
        return drain(log, Archive(archive_folder(self.room.settings)), open_ledger(self.room.settings), now=self.now)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    def assert_as_rebuilt(self, *users: str, purposes: tuple[Purpose, ...] = PURPOSES[:2]) -> None:
        """What is read online now equals what a batch build as of now says, sequences too."""
        self.drain()
        archive, standing = Archive(archive_folder(self.room.settings)), open_ledger(self.room.settings).standing()
        for purpose in purposes:
            view = view_for(Entity.USER, purpose)
            build_one(view, archive=archive, folder=self.room.layout.features, standing=standing, as_of=self.now)
            online = self.room.read(purpose, *users, now=self.now)
            offline = self.room.offline(purpose, *users, at=self.now)
            np.testing.assert_allclose(online.values, offline, rtol=1e-9, atol=1e-9, err_msg=purpose)
            if view.sequences:
                with duckdb.connect() as connection:
                    connection.execute("SET TimeZone = 'UTC'")
                    found = sequences_at(
                        connection, view, archive=archive, standing=standing, as_of=self.now,
                    )  # fmt: skip
                none: list[list[str]] = [[] for _ in view.sequences]
                told = [found.get(key, none) for key in self.room.keys(*users)]
                assert [[row[i] for row in told] for i in range(len(none))] == online.sequences
