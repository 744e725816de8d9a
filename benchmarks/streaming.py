"""How fast live events reach the online vectors: appended to the log → readable in Redis with their effect.

Three runs, each with real worker processes and a home of its own: *steady* at 2,000 events/s, timed from the append until
a reader sees the effect; *burst*, appended as fast as the log takes them, with the archive written from the same log;
*kill*, where workers are killed with SIGKILL in mid-run. After the last two everybody's money spent is compared with what
was sent, online and in the archive: each event is one unit, so a lost or doubled one shows.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis

from aap.config import Settings, load_settings
from aap.consent import redis_projection
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.events.streaming.columns import LoggedEvent
from aap.events.streaming.consumer_group import behind
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.declarations import Entity
from aap.features.online.reader import read
from aap.features.views import view_for
from aap.infra.object_store import archive_folder
from aap.infra.redis import connection
from benchmarks.support.environment import describe

__all__ = ["Burst", "Kill", "LiveReport", "Steady", "run"]

PURPOSES = (Purpose.MARKETING_RETENTION,)
"""What everybody has granted: the purpose with the most features, 58 numbers, nearly all of which a purchase moves."""

_SEND = 2_000
_STEADY_RATE = 2_000
_STEADY_SEND = 20
_UNIT = 100
"""Money spent with each event, in cents."""
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Steady:
    """Times from the append of an event until a reader has its effect."""

    events_per_s: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Burst:
    """`events_per_s` counts until the last event is readable and archived; CPU in microseconds an event, by process."""

    events_per_s: int
    lost: int
    double: int
    readable_events_per_s: int
    cpu_us: dict[str, float]


@dataclass(frozen=True, slots=True)
class Kill:
    """As `Burst`, with `killed` worker processes killed on the way."""

    lost: int
    double: int
    killed: int


@dataclass(frozen=True, slots=True)
class LiveReport:
    """All runs, and what they ran on."""

    steady: Steady
    burst: Burst
    kill: Kill
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Shop:
    """A home with people who granted `purposes`, its Redis, and the command `aap live` over it."""

    settings: Settings
    client: redis.Redis
    people: list[str]
    purposes: tuple[Purpose, ...] = PURPOSES
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @contextlib.contextmanager
    def live(self, *, workers: int, drain_every: float) -> Iterator[subprocess.Popen[bytes]]:
        """`aap live`, from when it holds every partition until it has stopped."""
        options = ["--workers", str(workers), "--drain-every", str(drain_every)]
        env = {
            **os.environ,
            "AAP_HOME": str(self.settings.home),
        }
        with subprocess.Popen(
            [sys.executable, "-m", "aap.cli.main", "live", *options], env=env, stdout=subprocess.DEVNULL
        ) as started:
            try:
                _until(lambda: behind(self.client) is not None or started.poll() is not None)
                if started.poll() is not None:
                    raise RuntimeError("`aap live` ended by itself; it has said why.")
                yield started
            finally:
                started.terminate()

    def now(self) -> int:
        """Now, in microseconds since 1970."""
        return int(self.settings.now().timestamp() * 1_000_000)

    def events(self, count: int, *, first: int) -> list[LoggedEvent]:
        """Purchases of anybody, happening now."""
        now, people = self.now(), self.people
        return [
            LoggedEvent("bench", f"b{i}", "product_purchased", people[who], now, now, {
                "basket_id": f"k{i}", "item_id": f"i{i % 5_000}", "quantity": 1, "amount": _UNIT, "discount": None,
                "coupon_discount": None, "department": f"d{i % 20}", "category": None, "store_id": f"s{who % 300}",
            })
            for i, who in enumerate(self.random.integers(0, len(people), count).tolist(), start=first)
        ]  # fmt: skip

    def counts(self) -> Counter[str]:
        """Events of each person as the online vectors have them."""
        view = view_for(Entity.USER, self.purposes[0])
        place = view.names.index("amount_sum_ever")
        found: Counter[str] = Counter()
        for at in range(0, len(self.people), 5_000):
            some = self.people[at : at + 5_000]
            read_ = read(self.client, view, some, purposes=[self.purposes[0]], now=self.settings.now())
            spent = np.nan_to_num(read_.values[:, place]) * 100 / _UNIT
            found.update({key: round(n) for key, n in zip(some, spent.tolist(), strict=True) if n})
        return found

    def archived(self) -> int:
        """Events in the archive."""
        return Archive(archive_folder(self.settings)).count("product_purchased")


def run(
    *, people: int, steady_s: float, burst: int, workers: int, purposes: Sequence[Purpose] = PURPOSES
) -> LiveReport:
    """All three runs; `burst` is the number of events of the second, the third has half of them."""
    with shop_of(people, purposes) as shop:
        timed = steady(shop, seconds=steady_s)
    with shop_of(people, purposes) as shop:
        fast, _ = burst_of(shop, burst, workers=workers, kills=0)
    with shop_of(people, purposes) as shop:
        killed, times = burst_of(shop, burst // 2, workers=workers, kills=3)
        machine = describe(shop.client)
    return LiveReport(timed, fast, Kill(killed.lost, killed.double, times), machine)


@contextlib.contextmanager
def shop_of(people: int, purposes: Sequence[Purpose] = PURPOSES) -> Iterator[Shop]:
    """A shop of so many people, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(Path(folder))
        client = connection.connect(settings)
        keys = [f"{i * 2_654_435_761 % 2**32:08x}{i:024x}" for i in range(people)]
        ledger, now = open_ledger(settings), settings.now()
        said = [Entry(k, p, Status.GIVEN, now, "bench", "bench", "1") for k in keys for p in purposes]
        ledger.append(said, received_at=now)
        redis_projection.write(client, ledger.standing(), seq=ledger.size(), now=settings.now())
        try:
            yield Shop(settings, client, keys, tuple(purposes))
        finally:
            client.close()
            connection.stop(settings)


def steady(shop: Shop, *, seconds: float) -> Steady:
    """Send 20 at a time at 2,000 events a second, and look for the last of each in its person's vector until it is there."""
    log, count = RedisStreamLog(shop.client), int(_STEADY_RATE * seconds)
    waits: list[float] = []
    looked: list[tuple[str, int, float]] = []
    seen: Counter[str] = Counter()
    with shop.live(workers=1, drain_every=5.0):
        time.sleep(1.0)
        begun = time.perf_counter()
        for first in range(0, count, _STEADY_SEND):
            due = begun + first / _STEADY_RATE
            while True:
                left = due - time.perf_counter()
                _look(shop, looked, waits)
                if left <= 0:
                    break
                time.sleep(min(max(due - time.perf_counter(), 0.0), 0.002))
            batch = shop.events(_STEADY_SEND, first=first)
            sent = time.perf_counter()
            log.append(batch)
            seen.update(e.user_key for e in batch)
            looked.append((batch[-1].user_key, seen[batch[-1].user_key], sent))
        took = time.perf_counter() - begun
        deadline = time.perf_counter() + 30
        while looked and time.perf_counter() < deadline:
            _look(shop, looked, waits)
    told = np.array([*waits, *(float("inf") for _ in looked)]) * 1_000
    p50, p99 = (round(float(np.percentile(told, share)), 1) for share in (50, 99))
    return Steady(round(count / took), p50, p99)


def _look(shop: Shop, looked: list[tuple[str, int, float]], waits: list[float]) -> None:
    if not looked:
        return
    view = view_for(Entity.USER, shop.purposes[0])
    keys = [key for key, _, _ in looked]
    found = read(shop.client, view, keys, purposes=[shop.purposes[0]], now=shop.settings.now())
    spent = found.values[:, view.names.index("amount_sum_ever")] * 100 / _UNIT
    at = time.perf_counter()
    left = []
    for (key, count, sent), have in zip(looked, spent.tolist(), strict=True):
        if have >= count - 0.5:
            waits.append(at - sent)
        else:
            left.append((key, count, sent))
    looked[:] = left


def burst_of(shop: Shop, count: int, *, workers: int, kills: int) -> tuple[Burst, int]:
    """Append `count` events as fast as the log takes them; returns what came of them, and how many workers were killed."""
    log, sent, killed = RedisStreamLog(shop.client), Counter[str](), 0
    with shop.live(workers=workers, drain_every=1.0) as live:
        cpu = _Cpu(live.pid, shop.client)
        begun, mine = time.perf_counter(), time.process_time()
        for first in range(0, count, _SEND):
            batch = shop.events(min(_SEND, count - first), first=first)
            log.append(batch)
            sent.update([e.user_key for e in batch])
            if kills and first // _SEND in {(k + 1) * count // _SEND // (kills + 1) for k in range(kills)}:
                killed += _kill_workers(live.pid)
            cpu.look()
        producer = time.process_time() - mine
        _until(lambda: _all_read(shop.client), meanwhile=cpu.look)
        folded_s = time.perf_counter() - begun
        _until(lambda: log.waiting() == 0, meanwhile=cpu.look)
        archived_s = time.perf_counter() - begun
        cpu.look()
    online, archived = shop.counts(), shop.archived()
    found = Burst(
        round(count / archived_s),
        sum((sent - online).values()) + max(count - archived, 0),
        sum((online - sent).values()) + max(archived - count, 0),
        round(count / folded_s),
        {name: round(s / count * 1e6, 2) for name, s in {"producer": producer, **cpu.spent}.items()},
    )
    return found, killed


class _Cpu:
    """Processor time that the server, the workers and the archive's writer have spent since this was made."""

    def __init__(self, parent: int, client: redis.Redis) -> None:
        info: Any = client.info("server")
        self._archive, self._server = psutil.Process(parent), psutil.Process(int(info["process_id"]))
        self._begun: dict[psutil.Process, float] = {}
        self._now: dict[psutil.Process, float] = {}
        self._looked = 0.0
        self.look()
        self._begun = dict(self._now)

    def look(self) -> None:
        """Take note; a worker that dies later keeps what it had."""
        if time.perf_counter() - self._looked < 0.1:
            return
        for process in (self._archive, self._server, *self._archive.children()):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._now[process] = times.user + times.system
        self._looked = time.perf_counter()

    @property
    def spent(self) -> dict[str, float]:
        """Seconds, by what they went to."""
        spent = {process: now - self._begun.get(process, 0.0) for process, now in self._now.items()}
        known = {"server": spent.pop(self._server), "archive": spent.pop(self._archive)}
        return {**known, "workers": sum(spent.values())}


def _all_read(client: redis.Redis) -> bool:
    told = behind(client)
    return told is not None and told.events == 0


def _kill_workers(parent: int) -> int:
    """SIGKILL to every worker process of a running `aap live`; returns how many."""
    killed = 0
    for process in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in word for word in process.cmdline()):
                process.kill()
                killed += 1
    return killed


def _until(reached: Callable[[], bool], *, meanwhile: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not reached():
        meanwhile()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
