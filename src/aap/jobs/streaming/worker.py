"""One live worker: it holds partitions of the log, knows their people, and turns each batch of events into online rows.

What it knows of a partition follows from the archive and the log alone. Killed at any moment it leaves rows that are right
as far as they go; who takes the partition over makes the same memory again and goes on. So each event has one effect,
however often it is delivered.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Thread

import duckdb
import numpy as np
import redis

from aap.events.archive import Archive
from aap.events.errors import EventError
from aap.events.streaming.archiver import LATE_US
from aap.events.streaming.columns import EventColumns, LoggedEvent, by_type, merged
from aap.events.streaming.consumer_group import LiveGroup
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.online.reader import to_micros
from aap.features.online.row_codec import NEVER
from aap.features.streaming.bootstrap import Snapshot, known_in
from aap.features.streaming.plan import layouts, live_plans
from aap.features.streaming.sink import LiveRows
from aap.features.streaming.state import Memory
from aap.infra.redis.connection import UNREACHABLE

__all__ = ["FAILED", "LiveWorker"]

FAILED: tuple[type[Exception], ...] = (redis.RedisError, *UNREACHABLE, EventError, duckdb.Error, OSError)
"""What passes, or is tried again: nothing is lost by it."""

_MOST = 150_000
"""Events folded at once, about: somebody's row is written once for all of theirs, so the further a worker is behind, the less
an event costs it.
"""
_MANY = 2_000
"""Who folds so many at once is behind."""
_GATHER_S = 2.0
_LOOK_S = 0.1
_BALANCE_S = 0.5
_AGAIN_S = 0.5
_RENEWED = 100
_RENEW_US = 7 * 86_400_000_000


@dataclass(slots=True)
class _Partition:
    """What a worker knows of one partition."""

    memory: Memory
    rows: LiveRows
    place: bytes
    total: int
    """Of the events ever appended, how many have had their effect."""
    generation: int
    waiting: list[LoggedEvent] = field(default_factory=list)
    """Events that only begin to count at a later moment."""
    archived: set[tuple[str, str]] = field(default_factory=set)
    """Events the memory has from the archive that are still to be read from the log."""
    to_renew: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    renewed: int = 0
    due: int = NEVER
    """When the first of those waiting begins to count, microseconds since 1970."""
    wrote_at: int = 0

    def wait_for(self, events: list[LoggedEvent]) -> None:
        """Keep `events` until they begin to count."""
        self.waiting += events
        self.due = min([self.due, *(max(e.available_at, e.occurred_at) for e in events)])


@dataclass(slots=True)
class LiveWorker:
    """One worker. `clock` gives the platform's time; about `most` events are folded at once."""

    client: redis.Redis
    archive: Archive
    clock: Callable[[], datetime]
    name: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    most: int = _MOST
    lease_ms: int = 5_000
    folded: int = 0
    """Events that have had their effect so far."""
    group: LiveGroup = field(init=False)
    _log: RedisStreamLog = field(init=False)
    _held: dict[int, _Partition] = field(init=False, default_factory=dict)
    _balanced: float = field(init=False, default=float("-inf"))
    _now: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.group = LiveGroup(self.client, self.name, lease_ms=self.lease_ms)
        self._log = RedisStreamLog(self.client)

    def step(self, ready: Collection[int] | None = None) -> int:
        """Balance when due, and fold a batch of each partition held, or of those in `ready`; returns the number of events."""
        if time.monotonic() - self._balanced >= _BALANCE_S:
            self.balance()
            ready = None
        done = sum(self._fold(p) for p in sorted(self._held) if ready is None or p in ready)
        self.folded += done
        return done

    def balance(self) -> None:
        """Take or give up partitions, and say how far this worker is."""
        taken = self.group.balance()
        for partition in (self._held.keys() - self.group.partitions) | (taken & self._held.keys()):
            del self._held[partition]
        for partition in sorted(self.group.partitions - self._held.keys()):
            self._load(partition)
        for partition, held in self._held.items():
            self.group.report(partition, total=held.total, wrote_at=held.wrote_at)
        self._balanced = time.monotonic()

    def tend(self, *, busy: bool) -> int:
        """Timetables that are lacking, and rows to be made anew after a partition was taken over; returns how many."""
        done, at = 0, self._moment()
        for held in self._held.values():
            done += held.rows.catch_up(_RENEWED if busy else 5 * _RENEWED, at=at, urgent=busy)
            if at - held.renewed > _RENEW_US:
                held.to_renew, held.renewed = _by_newest(held.memory), at
            if not done and len(held.to_renew):
                some = _RENEWED // 5 if busy else _RENEWED
                held.rows.renew(np.sort(held.to_renew[:some]), at=at)
                held.to_renew = held.to_renew[some:]
                done += some
        return done

    def ready(self, *, wait: bool) -> set[int] | None:
        """The partitions that there is something to do in; with `wait`, not before there is, or it is time to look at all of
        them, which is None.
        """
        left = self._balanced + _BALANCE_S - time.monotonic()
        if not wait or left <= 0:
            left = 0.0
        if not self._held:
            time.sleep(left)
            return None
        due = min(held.due for held in self._held.values())
        left = min(left, max(0.0, (due - self._moment()) / 1_000_000))
        came = self.group.wait({p: held.place for p, held in self._held.items()}, seconds=left)
        return came | {p for p, held in self._held.items() if held.due <= self._moment()}

    def run(self, stopping: Callable[[], bool], *, tell: Callable[[str], None] = lambda _: None) -> None:
        """Work until `stopping()`; Redis may go away and come back meanwhile. `tell` is given each new problem once."""
        done, problem, idle = Event(), "", False
        keeper = Thread(target=self._keep_leases, args=(done,), daemon=True)
        keeper.start()
        try:
            while not stopping():
                try:
                    ready, begun = self.ready(wait=idle), time.monotonic()
                    folded = self.step(ready)
                    idle = self.tend(busy=folded > 0) + folded == 0
                    if folded >= _MANY:
                        self._gather(at_most_s=2 * (time.monotonic() - begun))
                except FAILED as error:
                    if (found := _sentence(error)) != problem:
                        problem = found
                        tell(found)
                    self._held.clear()  # what was half done is done again from what is certain
                    self._balanced = float("-inf")
                    time.sleep(_AGAIN_S)
        finally:
            done.set()
            keeper.join()
        with contextlib.suppress(*FAILED):  # else the leases run out by themselves
            self.group.leave()

    def _gather(self, *, at_most_s: float) -> None:
        """Leave the processors to others for up to `at_most_s`, for more events to come: somebody's row is then written once
        for several. Not while a whole batch waits already, nor once no more come.
        """
        until, waiting = time.monotonic() + min(at_most_s, _GATHER_S), -1
        while time.monotonic() < until:
            before, waiting = waiting, sum(self._log.appended(p) - held.total for p, held in self._held.items())
            if waiting >= self.most or waiting == before:
                break
            time.sleep(_LOOK_S)

    def _keep_leases(self, done: Event) -> None:
        while not done.wait(self.lease_ms / 3_000):
            with contextlib.suppress(*FAILED):
                self.group.renew()

    def _moment(self) -> int:
        """Now, in microseconds since 1970; never back."""
        self._now = max(self._now, to_micros(self.clock()))
        return self._now

    def _load(self, partition: int) -> None:
        """Make a partition's memory from the archive; the log is gone on with from where the archive was,
        or the worker before if it was behind.

        What is archived after the archive's files were listed is in the log after that, and what was archived already
        but is still to be read from the log is noted. So nothing is missed or counted twice.
        """
        self._held.pop(partition, None)
        generation, at = self.group.generation(partition), self._moment()
        begin = self.group.begin(partition)
        if begin is None:
            return
        snapshot, end = Snapshot(self.archive, layouts()), self._log.end(partition)
        memory = Memory(layouts())
        held = _Partition(memory, LiveRows(self.client, memory, live_plans()), *begin, generation)
        try:
            held.wait_for(snapshot.fill(memory, partition=partition, at=at))
        except duckdb.Error:
            self.archive.check(layouts())  # says which file it is
            raise
        after = held.place
        while after != end:
            batch = self._log.read(partition, after=after, most=200, up_to=end)
            if not batch.entries:
                break
            for columns in batch.events.values():
                held.archived |= snapshot.has(columns)
            after = batch.last
        held.to_renew, held.renewed = _by_newest(memory), at
        self._held[partition] = held

    def _fold(self, partition: int) -> int:
        held = self._held[partition]
        delivery = self.group.read(partition, after=held.place, total=held.total, most=self.most)
        if delivery is None:
            del self._held[partition]
            return 0
        if delivery.generation != held.generation:
            self._load(partition)
            return self._fold(partition) if partition in self._held else 0
        batch, at = delivery.batch, self._moment()
        self._take(held, batch.events, at=at)
        if batch.entries:
            held.place, held.total = batch.last, batch.total
        return len(batch)

    def _take(self, held: _Partition, events: Mapping[str, EventColumns], *, at: int) -> None:
        """Give `events`, and those whose moment has come, their effect."""
        touched: dict[str, np.ndarray] = {}
        if held.waiting:
            events = merged([*events.values(), *by_type(held.waiting)])
            held.waiting, held.due = [], NEVER
        for event in layouts().keys() & events.keys():
            ours = events[event]
            touched[event] = np.unique(held.memory.rows_of(ours.user_keys))
            if held.archived:  # known, but perhaps in no row yet
                ours = ours.chosen(~ours.named(held.archived))
            if (late := ours.available - ours.occurred > LATE_US).any():
                ours = ours.chosen(~ours.named(known_in(self.archive, ours.chosen(late), before=True)))
            if (early := np.maximum(ours.available, ours.occurred) > at).any():
                held.wait_for(ours.chosen(early).events())
                ours = ours.chosen(~early)
            if len(ours):
                held.memory.add(ours)
        if touched:
            held.rows.write(touched, at=at)
            held.wrote_at = at


def _sentence(error: Exception) -> str:
    return f"Live features wait: {' '.join(str(error).split()).rstrip('.')}."


def _by_newest(memory: Memory) -> np.ndarray:
    """Everyone, those with the newest event first."""
    newest = np.zeros(len(memory.keys), np.int64)
    everyone = np.arange(len(memory.keys))
    for events in memory.events.values():
        start, length = events.segments(everyone)
        there = length > 0
        newest[there] = np.maximum(newest[there], events.occurred[(start + length)[there] - 1])
    return np.argsort(-newest, kind="stable")
