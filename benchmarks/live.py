"""How fast live events reach the online vectors: appended to the log → readable in Redis with their effect.

Three runs, each with real worker processes and a home of its own: *steady* at 2,000 events/s, timed event by event;
*burst*, as fast as the workers go, with the archive written from the same log; *kill*, where workers are killed with
SIGKILL in mid-run. After the last two every person's count of events is compared with what was sent, online and archived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import redis

from consent import projection
from consent.ledger import Entry, Ledger
from consent.policy import Status
from consent.purposes import Purpose
from events.archive import Archive
from events.log import LoggedEvent, RedisStreamLog
from feature_repo.declare import Entity
from feature_repo.online import read
from feature_repo.views import view_for
from settings.config import Settings, load_settings
from storage import redis_server
from storage.layout import Layout

__all__ = ["run"]

_PURPOSE = Purpose.PERSONALIZE_PROFILING
_SEND = 500


@dataclass(frozen=True, slots=True)
class _Shop:
    """A home with people who granted one purpose, its Redis, and the command `aap live` over it."""

    settings: Settings
    client: redis.Redis
    people: list[str]

    def start(self, *, workers: int, drain_every: float) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "cli.main",
            "live",
            "--workers",
            str(workers),
            "--drain-every",
            str(drain_every),
        ]
        root = str(Path(__file__).resolve().parents[1])
        env = {**os.environ, "AAP_HOME": str(self.settings.home), "PYTHONPATH": root}
        started = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        while not self.client.exists("{log:0}:live:lease"):
            time.sleep(0.1)
        time.sleep(1.0)
        return started

    def counts(self) -> Counter[str]:
        """Events of each person as their online vectors have them."""
        view = view_for(Entity.USER, _PURPOSE)
        found: Counter[str] = Counter()
        for at in range(0, len(self.people), 5_000):
            some = self.people[at : at + 5_000]
            values = read(self.client, view, some, purposes=[_PURPOSE], now=self.settings.now())
            lists = values.sequences[0]
            found.update({key: len(bought) for key, bought in zip(some, lists, strict=True)})
        return found

    def unfolded(self) -> int:
        """Entries that the live workers have not acknowledged."""
        total = 0
        for p in range(4):
            with contextlib.suppress(redis.ResponseError):
                for group in self.client.xinfo_groups(f"{{log:{p}}}:events"):  # type: ignore[union-attr]
                    if group["name"] == b"live":
                        total += group["pending"] + (group["lag"] or 0)
        return total


def run(*, people: int, steady_s: float, burst: int, workers: int) -> dict[str, dict[str, float]]:
    """All three runs; `burst` is the number of events of the last two."""
    with _shop(people) as shop:
        steady = _steady(shop, seconds=steady_s, rate=2_000)
    with _shop(people) as shop:
        fast = _burst(shop, burst, workers=workers, kill=False)
    with _shop(people) as shop:
        killed = _burst(shop, burst // 2, workers=workers, kill=True)
    return {"steady": steady, "burst": fast, "kill": {k: killed[k] for k in ("lost", "double", "killed")}}


@contextlib.contextmanager
def _shop(people: int) -> Iterator[_Shop]:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(Path(folder))
        client = redis_server.connect(settings)
        keys = [f"{i * 2_654_435_761 % 2**32:08x}{i:024x}" for i in range(people)]
        ledger = Ledger.at(Layout(settings.home).ledger)
        ledger.append(
            [Entry(k, _PURPOSE, Status.GIVEN, _now(settings), "bench", "bench", "1") for k in keys],
            received_at=settings.now(),
        )
        standing = ledger.standing()
        projection.write(client, standing, seq=ledger.size(), now=settings.now())
        try:
            yield _Shop(settings, client, keys)
        finally:
            client.close()
            redis_server.stop(settings)


def _now(settings: Settings) -> datetime:
    return settings.now()


def _events(shop: _Shop, count: int, *, first: int = 0) -> Iterator[list[LoggedEvent]]:
    random = np.random.default_rng(first + 7)
    for at in range(0, count, _SEND):
        now = int(shop.settings.now().timestamp() * 1_000_000)
        who = random.integers(0, len(shop.people), min(_SEND, count - at)).tolist()
        yield [
            LoggedEvent("bench", f"b{first + at + i}", "product_purchased", shop.people[w], now, now, {
                "basket_id": f"k{(first + at + i) // 3}", "item_id": f"i{(first + at + i) % 5_000}",
                "quantity": 1, "amount": 250,
                "discount": None, "coupon_discount": None, "department": f"d{i % 20}", "category": None, "store_id": "s",
            })
            for i, w in enumerate(who)
        ]  # fmt: skip


def _steady(shop: _Shop, *, seconds: float, rate: int) -> dict[str, float]:
    """Send 20 at a time at `rate` events a second, and look for one of each in its person's vector until it is there."""
    live = shop.start(workers=1, drain_every=5.0)
    log, view = RedisStreamLog(shop.client), view_for(Entity.USER, _PURPOSE)
    waits: list[float] = []
    looked: list[tuple[str, int, float]] = []
    seen: Counter[str] = Counter()
    todo = [e for batch in _events(shop, int(rate * seconds)) for e in batch]
    begun = time.perf_counter()
    for at in range(0, len(todo), 20):
        due = begun + at / rate
        while (left := due - time.perf_counter()) > 0 or looked:
            _look(shop, view, looked, waits)
            if left <= 0:
                break
            time.sleep(min(max(left, 0.0), 0.001))
        batch = [_stamped(e, shop.settings) for e in todo[at : at + 20]]
        sent = time.perf_counter()
        log.append(batch)
        seen.update(e.user_key for e in batch)
        looked.append((batch[-1].user_key, seen[batch[-1].user_key], sent))
    took = time.perf_counter() - begun
    deadline = time.perf_counter() + 30
    while looked and time.perf_counter() < deadline:
        _look(shop, view, looked, waits)
    _stop(live)
    told = np.array([*waits, *(float("inf") for _ in looked)]) * 1_000
    return {
        "events_per_s": round(len(todo) / took),
        "p50_ms": round(float(np.percentile(told, 50)), 1),
        "p99_ms": round(float(np.percentile(told, 99)), 1),
    }


def _look(shop: _Shop, view: Any, looked: list[tuple[str, int, float]], waits: list[float]) -> None:
    if not looked:
        return
    found = read(shop.client, view, [k for k, _, _ in looked], purposes=[_PURPOSE], now=shop.settings.now()).sequences[
        0
    ]
    at = time.perf_counter()
    for (key, count, sent), bought in zip(list(looked), found, strict=True):
        if len(bought) >= count:
            waits.append(at - sent)
            looked.remove((key, count, sent))


def _stamped(event: LoggedEvent, settings: Settings) -> LoggedEvent:
    now = int(settings.now().timestamp() * 1_000_000)
    return LoggedEvent(event.source, event.id, event.type, event.user_key, now, now, event.fields)


def _burst(shop: _Shop, count: int, *, workers: int, kill: bool) -> dict[str, float]:
    live = shop.start(workers=workers, drain_every=2.0)
    log, sent = RedisStreamLog(shop.client), Counter[str]()
    killed = 0
    begun = time.perf_counter()
    for i, batch in enumerate(_events(shop, count)):
        log.append(batch)
        sent.update(e.user_key for e in batch)
        if kill and i * _SEND % (count // 3) < _SEND:
            killed += _kill_workers(live.pid)
    deadline = time.perf_counter() + 600
    while shop.unfolded() and time.perf_counter() < deadline:
        time.sleep(0.02)
    folded_s = time.perf_counter() - begun
    _stop(live)
    archived_s = time.perf_counter() - begun
    online = shop.counts()
    archived = Archive(Layout(shop.settings.home).archive).count("product_purchased")
    return {
        "events_per_s": round(count / folded_s),
        "archived_too_events_per_s": round(count / archived_s),
        "lost": sum((sent - online).values()) + max(count - archived, 0),
        "double": sum((online - sent).values()) + max(archived - count, 0),
        "killed": killed,
    }


def _kill_workers(parent: int) -> int:
    """SIGKILL to every worker process of a running `aap live`; returns how many."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    return len(workers)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=300)
