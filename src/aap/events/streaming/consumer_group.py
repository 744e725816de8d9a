"""The live readers of the event log: several workers share its partitions, each partition read by one of them at a time.

A worker holds a partition by a lease, and beside it stands the place up to which it has given events their effect. When it
stops, or dies and its lease runs out, another takes the partition over from there, or from the archive's place if that is
before. Nothing is deleted from the log that the holder has yet to read. Delivery is at least once: what a worker knows
dies with it, and whoever takes over reads again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from aap.events.streaming.event_log import PARTITIONS, Batch, Entry, key_of, total_at
from aap.infra.redis import lua

__all__ = ["Behind", "Delivery", "LiveGroup", "behind"]

_WORKERS = "live:workers"
_KEPT_MS = 60_000
"""How long what a worker hadn't come to is kept in the log for the next one, though the archive has it."""


# KEYS: workers. ARGV: worker, lease (ms). By the server's own clock.
_ALIVE = """
local seconds, micros = unpack(redis.call('TIME'))
local now = seconds * 1000 + math.floor(micros / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
_TAKE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
# KEYS: lease, place, archived, folded. ARGV: worker, how long a place is kept (ms). Answers place and total of the archive,
# or those of the worker before if it hadn't come as far: nothing after it is deleted.
_BEGIN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local found, before = redis.call('HMGET', KEYS[3], 'place', 'total'), redis.call('GET', KEYS[2])
local place, total = found[1] or '0-0', found[2] or '0'
if before then
  local a, b = string.match(before, '^(%d+)-(%d+)$')
  local c, d = string.match(place, '^(%d+)-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if a < c or (a == c and b < d) then
    place, total = before, string.match(redis.call('GET', KEYS[4]) or '0', '%d+')
  end
end
redis.call('SET', KEYS[2], place, 'PX', ARGV[2])
return {place, total}
"""
# KEYS: lease, place, folded. ARGV: worker, lease (ms), how long a place is kept (ms).
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_GIVE_UP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_POLL_S = 0.01

_AT_ONCE = 50
"""Entries in one answer, of some 70 kB at most: Redis does nothing else meanwhile."""

# Only who holds the lease may read. KEYS: lease, place, stream, generation. ARGV: worker, lease (ms), the place up to which
# events have had their effect, how many entries, how long a place is kept (ms), the place to read after.
_READ = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[5])
return {redis.call('GET', KEYS[4]) or '0', redis.call('XRANGE', KEYS[3], '(' .. ARGV[6], '+', 'COUNT', ARGV[4])}
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What was read, and the number of times until then that the archive changed behind the log's back."""

    batch: Batch
    generation: int


@dataclass(frozen=True, slots=True)
class Behind:
    """Events accepted that have had no effect yet, and when rows were last written (microseconds since 1970; 0: never)."""

    events: int
    wrote_at: int


class LiveGroup:
    """One worker's membership. `name` is its own; `lease_ms` is how long after its death others wait."""

    def __init__(self, client: redis.Redis, name: str, *, lease_ms: int = 5_000) -> None:
        self.name = name
        self.partitions: set[int] = set()
        self._redis, self._lease_ms = client, lease_ms

    def balance(self) -> set[int]:
        """Renew the leases, give up or take partitions until each worker has its share; returns those newly taken.

        To be called several times in the time of a lease.
        """
        share = -(-PARTITIONS // self._alive())
        self.partitions = {p for p in self.partitions if self._renew(p)}
        for p in sorted(self.partitions)[share:]:
            self._give_up(p)
        taken = set()
        for p in range(PARTITIONS):
            if len(self.partitions) < share and p not in self.partitions:
                (took,) = lua.run(self._redis, _TAKE, [(_lease(p)[:1], [self.name, self._lease_ms])])
                if took:
                    self.partitions.add(p)
                    taken.add(p)
        return taken

    def begin(self, partition: int) -> tuple[bytes, int] | None:
        """Where to begin to read, and how many events come before: after what the archive has and another worker, if one
        was here in the last minute, has given its effect. None: the lease is lost.
        """
        lease, place, folded = _lease(partition)
        keys = [lease, place, key_of(partition, "archived"), folded]
        (found,) = lua.run(self._redis, _BEGIN, [(keys, [self.name, _KEPT_MS])])
        if found is None:
            self.partitions.discard(partition)
            return None
        return found[0], int(found[1])

    def renew(self) -> None:
        """Keep the leases while a batch takes long; may be called from another thread."""
        for p in tuple(self.partitions):
            self._renew(p)
        self._alive()

    def leave(self) -> None:
        """Give everything up, so that others needn't wait."""
        for p in sorted(self.partitions):
            self._give_up(p)
        self._redis.zrem(_WORKERS, self.name)

    def read(self, partition: int, *, after: bytes, total: int, most: int) -> Delivery | None:
        """The next entries of about `most` events, none of them waited for; everything up to `after`, `total` events, has had
        its effect. None: the lease is lost.
        """
        keys = [*_lease(partition)[:2], key_of(partition, "events"), key_of(partition, "generation")]
        place, entries, at_once = after, list[Entry](), min(most, _AT_ONCE)
        while True:
            args: list[bytes | int | str] = [self.name, self._lease_ms, after, at_once, _KEPT_MS, place]
            (found,) = lua.run(self._redis, _READ, [(keys, args)])
            if found is None:
                self.partitions.discard(partition)
                return None
            entries += found[1]
            if len(found[1]) < at_once or total_at(entries[-1]) - total >= most:
                return Delivery(Batch.of(partition, entries), int(found[0]))
            place = entries[-1][0]

    def wait(self, places: Mapping[int, bytes], *, seconds: float) -> set[int]:
        """The partitions, of those in `places`, with an entry after the place given: as soon as there is one, or none after
        so many seconds. On a cluster, where no call waits for streams of several slots, after a moment all of them.
        """
        if lua.is_cluster(self._redis):
            time.sleep(min(seconds, _POLL_S))
            return set(places)
        streams: Any = {key_of(partition, "events"): place for partition, place in places.items()}
        block = round(seconds * 1_000) or None  # 0 would be for ever
        found: Any = self._redis.xread(streams, count=1, block=block)
        came = {name for name, _ in found}
        return {partition for partition in places if key_of(partition, "events").encode() in came}

    def generation(self, partition: int) -> int:
        """See `Delivery`."""
        return int(self._redis.get(key_of(partition, "generation")) or 0)  # type: ignore[arg-type]

    def report(self, partition: int, *, total: int, wrote_at: int) -> None:
        """Say how many of the events ever appended have had their effect, and when rows were last written, for `behind`."""
        self._redis.set(key_of(partition, "live:folded"), f"{total} {wrote_at}", px=_KEPT_MS)

    def _renew(self, partition: int) -> bool:
        (held,) = lua.run(self._redis, _RENEW, [(_lease(partition), [self.name, self._lease_ms, _KEPT_MS])])
        return bool(held)

    def _give_up(self, partition: int) -> None:
        lua.run(self._redis, _GIVE_UP, [(_lease(partition)[:1], [self.name])])
        self.partitions.discard(partition)

    def _alive(self) -> int:
        """How many workers there are, this one counted."""
        (count,) = lua.run(self._redis, _ALIVE, [([_WORKERS], [self.name, self._lease_ms])])
        return int(count)


def behind(client: redis.Redis) -> Behind | None:
    """How far the workers are; None while a partition has no worker, or one that is still making its memory."""
    events = wrote_at = 0
    for partition in range(PARTITIONS):
        holder, _, folded = _lease(partition)
        told: Any = client.get(folded)
        if told is None or not client.exists(holder):
            return None
        done, at = map(int, told.split())
        appended: Any = client.get(key_of(partition, "total"))
        events, wrote_at = events + max(0, int(appended or 0) - done), max(wrote_at, at)
    return Behind(events, wrote_at)


def _lease(partition: int) -> list[str]:
    return [key_of(partition, f"live:{name}") for name in ("lease", "at", "folded")]
