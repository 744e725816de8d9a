"""Live features: workers that fold the event log into the online rows, and the archive written from the same log.

A worker reads the partitions it holds in micro-batches, folds each and acknowledges it. Killed at any moment it leaves
nothing half done: what it had not acknowledged is delivered again, and the states know what they have taken.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.process import BaseProcess
from threading import Event, Thread

import redis

from events.archive import Archive
from events.errors import EventError
from events.live_group import LiveGroup
from events.log import Batch, LoggedEvent, RedisStreamLog
from feature_repo.history import History
from feature_repo.live_fold import Entry, LiveFold, live_plans
from feature_repo.online import to_micros
from pipelines.ingest import archive_live_events
from settings.config import Settings, load_settings
from storage.errors import StorageError
from storage.layout import Layout
from storage.redis_server import UNREACHABLE, connect

__all__ = ["LiveWorker", "run", "work"]

_MOST = 4_000
_IDLE_S = 0.004
_BALANCE_S = 0.5
_DRAIN_S = 10.0
_REDIS_BACK_S = 0.5
_FAILED: tuple[type[Exception], ...] = (redis.RedisError, *UNREACHABLE)


@dataclass(frozen=True, slots=True)
class _Around:
    """What is in the log around a batch; see `feature_repo.live_fold.Around`."""

    group: LiveGroup
    log: RedisStreamLog
    batch: Batch

    def earlier(self) -> list[LoggedEvent]:
        return self.group.earlier(self.batch)

    def to_come(self) -> set[tuple[str, str]]:
        return self.group.to_come(self.batch, up_to=self.log.archived_up_to(self.batch.partition))


@dataclass(slots=True)
class LiveWorker:
    """One worker. `clock` gives the platform's time; `most` entries are folded at once."""

    client: redis.Redis
    archive: Archive
    clock: Callable[[], datetime]
    name: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    most: int = _MOST
    lease_ms: int = 5_000
    folded: int = 0
    """Entries acknowledged so far."""
    _group: LiveGroup = field(init=False)
    _history: History = field(init=False)
    _fold: LiveFold = field(init=False)
    _balanced: float = field(init=False, default=0.0)
    _unseen: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._group = LiveGroup(self.client, self.name, lease_ms=self.lease_ms)
        events = {event for plan in live_plans().values() for event in plan.events}
        self._history = History(self.archive, events)
        self._fold = LiveFold(self.client, self._history)

    def step(self) -> int:
        """Balance when due, then fold one batch of each partition held; returns the number of entries."""
        if time.monotonic() - self._balanced >= _BALANCE_S:
            self._unseen = bool(self._group.balance()) or self._unseen
            if self._unseen:  # what others left out before this one took over, only the archive knows
                self._history.look()
                for partition in self._group.partitions:
                    self._history.add(self._group.people_before(partition))
                self._unseen = False
            self._balanced = time.monotonic()
        done = 0
        for partition in sorted(self._group.partitions):
            batch = self._group.read(partition, most=self.most)
            if batch.places:
                self._take(batch)
                done += len(batch.places)
        self.folded += done
        return done

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping()`; Redis may go away and come back meanwhile."""
        done = Event()
        keeper = Thread(target=self._keep_leases, args=(done,), daemon=True)
        keeper.start()
        try:
            while not stopping():
                try:
                    if self.step() == 0:
                        time.sleep(_IDLE_S)
                except _FAILED:
                    self._balanced = 0.0
                    time.sleep(_REDIS_BACK_S)
        finally:
            done.set()
            keeper.join()
        with contextlib.suppress(*_FAILED):  # else the leases run out by themselves
            self._group.leave()

    def _keep_leases(self, done: Event) -> None:
        while not done.wait(self.lease_ms / 3_000):
            with contextlib.suppress(*_FAILED):
                self._group.renew()

    def _take(self, batch: Batch) -> None:
        entries = [Entry(_position(place), event) for place, event in zip(batch.places, batch.events, strict=True)]
        around = _Around(self._group, RedisStreamLog(self.client), batch)
        self._fold.take(entries, clock=lambda: to_micros(self.clock()), around=around)
        self._group.acknowledge(batch)


def work(home: str, parent: int) -> None:
    """A worker process: until it is told to stop, or the process that started it is gone."""
    from pathlib import Path

    settings = load_settings(Path(home))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = LiveWorker(connect(settings, start=False), Archive(Layout(settings.home).archive), settings.now)
    worker.run(lambda: stop.is_set() or os.getppid() != parent)


def run(settings: Settings, *, workers: int = 1, drain_every_s: float = _DRAIN_S, stop: Event | None = None) -> None:
    """Keep `workers` workers going and the archive written, until SIGTERM or `stop`. A worker that dies is replaced."""
    stop = stop or Event()
    connect(settings).close()
    running: list[BaseProcess] = []
    drained = time.monotonic()
    try:
        while not stop.is_set():
            running = [p for p in running if p.is_alive()]
            while len(running) < workers:
                running.append(_start_worker(settings))
            if time.monotonic() - drained >= drain_every_s:
                _drain(settings)
                drained = time.monotonic()
            stop.wait(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(timeout=10)
        _drain(settings)


def _start_worker(settings: Settings) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(settings.home), os.getpid()))
    process.start()
    return process


def _drain(settings: Settings) -> None:
    """Write the archive. What can't be done now is done next time: the log keeps it."""
    with contextlib.suppress(EventError, StorageError, *_FAILED):
        archive_live_events(settings, now=settings.now())


def _position(place: bytes) -> tuple[int, int]:
    first, second = place.split(b"-")
    return int(first), int(second)
