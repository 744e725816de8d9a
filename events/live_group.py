"""The live readers of the event log: several workers share its partitions, each partition read by one of them at a time.

A worker holds a partition by a lease and reads it in order. When it stops, or dies and its lease runs out, another takes
the partition over together with what was delivered and never acknowledged. Delivery is at least once; that each event has
one effect is up to what the worker writes.
"""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from events.log import PARTITIONS, Batch, LoggedEvent, make_group, stream_of

__all__ = ["GROUP", "LiveGroup"]

GROUP = "live"
_WORKERS = "live:workers"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

# Only who holds the lease may read, and what was delivered but not acknowledged comes first, whatever happened to the answer:
# a later entry never overtakes an earlier one. KEYS: lease, stream. ARGV: group, worker, lease (ms), how many.
_READ = """
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return {} end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for _, from in ipairs({'0', '>'}) do
  local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[4], 'STREAMS', KEYS[2], from)
  if found and found[1] and #found[1][2] > 0 then return found[1][2] end
end
return {}
"""

_CLAIM = "return redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'COUNT', 10000, 'JUSTID')[1]"


class LiveGroup:
    """One worker's membership. `name` is its own; `lease_ms` is how long after its death others wait."""

    def __init__(self, client: redis.Redis, name: str, *, lease_ms: int = 5_000) -> None:
        self.name = name
        self.partitions: set[int] = set()
        self._redis, self._lease_ms = client, lease_ms
        self._read = client.register_script(_READ)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)
        self._claim = client.register_script(_CLAIM)

    def balance(self) -> set[int]:
        """Renew the leases, give up or take partitions until each worker has its share; returns those newly taken.

        To be called several times in the time of a lease.
        """
        share = -(-PARTITIONS // self._alive())
        self.partitions = {
            p for p in self.partitions if self._renew(keys=[_lease(p)], args=[self.name, self._lease_ms])
        }
        for p in sorted(self.partitions)[share:]:
            self._give_up(p)
        taken = set()
        for p in range(PARTITIONS):
            if len(self.partitions) < share and p not in self.partitions and self._take(p):
                self.partitions.add(p)
                taken.add(p)
        return taken

    def renew(self) -> None:
        """Keep the leases while a batch takes long; may be called from another thread."""
        for p in tuple(self.partitions):
            self._renew(keys=[_lease(p)], args=[self.name, self._lease_ms])
        self._alive()

    def leave(self) -> None:
        """Give everything up, so that others needn't wait."""
        for p in sorted(self.partitions):
            self._give_up(p)
        self._redis.zrem(_WORKERS, self.name)

    def read(self, partition: int, *, most: int) -> Batch:
        """The next entries: first those delivered before and not acknowledged, then new ones. Doesn't wait.

        Empty when the lease has run out: `balance` takes notice.
        """
        entries: Any = self._read(
            keys=[_lease(partition), stream_of(partition)], args=[GROUP, self.name, self._lease_ms, most]
        )
        kept = [(entry[0], entry[1][1]) for entry in entries if len(entry) > 1 and entry[1]]
        if len(kept) < len(entries):  # erased meanwhile
            there = {place for place, _ in kept}
            self._redis.xack(stream_of(partition), GROUP, *(e[0] for e in entries if e[0] not in there))
        decode = msgspec.msgpack.Decoder(LoggedEvent).decode
        return Batch(partition, [place for place, _ in kept], [decode(event) for _, event in kept])

    def acknowledge(self, batch: Batch) -> None:
        """These entries have had their effect."""
        if batch.places:
            self._redis.xack(stream_of(batch.partition), GROUP, *batch.places)

    def earlier(self, batch: Batch) -> list[LoggedEvent]:
        """What was read before `batch` and is still in the log, so perhaps not in the archive."""
        return self._entries(batch.partition, "-", b"(" + batch.places[0])

    def to_come(self, batch: Batch, *, up_to: bytes) -> set[tuple[str, str]]:
        """(source, id) of the entries from the batch's first to `up_to`: in the archive, perhaps, before they had effect."""
        return {(e.source, e.id) for e in self._entries(batch.partition, batch.places[0], up_to)}

    def people_before(self, partition: int) -> set[str]:
        """Whose events were delivered already and are still in the log."""
        groups: Any = self._redis.xinfo_groups(stream_of(partition))
        (last,) = (g["last-delivered-id"] for g in groups if g["name"] == GROUP.encode())
        return {e.user_key for e in self._entries(partition, "-", last)}

    def _entries(self, partition: int, first: str | bytes, last: bytes) -> list[LoggedEvent]:
        entries: Any = self._redis.xrange(stream_of(partition), min=first, max=last)
        return [msgspec.msgpack.decode(f[b"e"], type=LoggedEvent) for _, f in entries]

    def _alive(self) -> int:
        """How many workers there are, this one counted."""
        seconds, micros = self._redis.time()  # type: ignore[misc]
        now = seconds * 1_000 + micros // 1_000
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd(_WORKERS, {self.name: now})
            pipe.zremrangebyscore(_WORKERS, 0, now - self._lease_ms)
            pipe.zcard(_WORKERS)
            return int(pipe.execute()[2])

    def _take(self, partition: int) -> bool:
        if not self._redis.set(_lease(partition), self.name, nx=True, px=self._lease_ms):
            return False
        make_group(self._redis, partition, GROUP)
        cursor: Any = "0-0"
        while True:
            cursor = self._claim(keys=[stream_of(partition)], args=[GROUP, self.name, cursor])
            if cursor == b"0-0":
                break
        return True

    def _give_up(self, partition: int) -> None:
        self._release(keys=[_lease(partition)], args=[self.name])
        self.partitions.discard(partition)


def _lease(partition: int) -> str:
    return f"{{log:{partition}}}:live:lease"
