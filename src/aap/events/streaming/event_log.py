"""The event log: what was accepted and is not in the archive yet, in Redis Streams.

Events of one person are in one partition, in the order they were accepted; an entry holds all that one sender appended to
a partition at once. A reader goes through a partition by its *place*. The archive's place is kept here, a live worker's
beside its lease; what both have passed is deleted. (`source`, `id`) is recognised for five weeks in the log and for ever
in the archive. The interface is small enough that Kafka can be another implementation of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import redis

from aap.events.streaming.columns import EventColumns, LoggedEvent, decode, encode, merged
from aap.infra.redis import lua

__all__ = [
    "BEGINNING",
    "PARTITIONS",
    "REMEMBERED_US",
    "Batch",
    "Entry",
    "EventLog",
    "RedisStreamLog",
    "key_of",
    "total_at",
]

PARTITIONS = 4
REMEMBERED_US = 35 * 86_400_000_000
"""How long an id is recognised at least."""

BEGINNING = b"0-0"
"""The place before every entry."""

Entry = tuple[bytes, Any]
"""An entry of the log as redis-py gives it: its place, and its fields."""

_FORGOTTEN_S = 75 * 86_400
_TOGETHER = 500
"""Events of one entry at most; no call holds up Redis for long."""

# An id that is known already is not appended: both in one step, so that two senders can't both be first. Answers which are
# known, if any is, and appends nothing then; else nothing. KEYS: stream, total, ids of this period and of the one before.
# ARGV: seconds to keep the ids, ids (16 bytes each), events, how many.
_APPEND = """
local ids, known = {}, false
for i = 1, tonumber(ARGV[4]) do ids[i] = string.sub(ARGV[2], 16 * i - 15, 16 * i) end
local flags = redis.call('SMISMEMBER', KEYS[3], unpack(ids))
local before = redis.call('SMISMEMBER', KEYS[4], unpack(ids))
for i = 1, #ids do
  if before[i] == 1 then flags[i] = 1 end
  if flags[i] == 1 then known = true end
end
if known then return flags end
redis.call('SADD', KEYS[3], unpack(ids))
redis.call('EXPIRE', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[1], '*', 'e', ARGV[3], 't', redis.call('INCRBY', KEYS[2], ARGV[4]))
return {}
"""

# KEYS: stream, archived, place of the live worker. ARGV: the new place and total of the archive, or nothing.
_LET_GO = """
if ARGV[1] then redis.call('HSET', KEYS[2], 'place', ARGV[1], 'total', ARGV[2]) end
local first, second
for _, place in ipairs({redis.call('HGET', KEYS[2], 'place') or '0-0', redis.call('GET', KEYS[3]) or ''}) do
  local a, b = string.match(place, '^(%d+)-(%d+)$')
  a, b = tonumber(a), tonumber(b)
  if a and (not first or a < first or (a == first and b < second)) then first, second = a, b end
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-%d', first, second + 1))
"""

# The rest of an entry is appended anew, unless the archive has it. KEYS: stream, total, archived. ARGV: place,
# how many events it held, what is left of them, how many.
_REPLACE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local a, b = string.match(ARGV[1], '^(%d+)-(%d+)$')
local c, d = string.match(redis.call('HGET', KEYS[3], 'place') or '0-0', '^(%d+)-(%d+)$')
a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
if a < c or (a == c and b <= d) then return 1 end
redis.call('HINCRBY', KEYS[3], 'total', ARGV[2])
if ARGV[4] ~= '0' then redis.call('XADD', KEYS[1], '*', 'e', ARGV[3], 't', redis.call('INCRBY', KEYS[2], ARGV[4])) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one partition, from the entry at place `first` to the one at `last`; `total` were appended up to there."""

    partition: int
    events: dict[str, EventColumns]
    """By type."""
    entries: int = 0
    first: bytes = BEGINNING
    last: bytes = BEGINNING
    total: int = 0

    def __len__(self) -> int:
        return sum(len(columns) for columns in self.events.values())

    @classmethod
    def of(cls, partition: int, entries: Sequence[Entry]) -> Batch:
        """From entries as redis-py gives them."""
        if not entries:
            return cls(partition, {})
        events = merged(part for _, fields in entries for part in decode(_field(fields, b"e")))
        return cls(partition, events, len(entries), entries[0][0], entries[-1][0], total_at(entries[-1]))


class EventLog(Protocol):
    """Append, take what is new, let go of what is archived, erase one person."""

    def append(self, events: Sequence[LoggedEvent]) -> list[bool]:
        """Append `events`; for each, whether it was new."""

    def take(self, partition: int, *, most: int) -> Batch:
        """The oldest entries of a partition, at most `most`, that were not let go of yet."""

    def let_go(self, batch: Batch) -> None:
        """The archive has them."""

    def imported_since(self, batch: Batch) -> bool:
        """Whether an import has ended since `batch` was appended: what it brought was not known to the log then."""

    def erase(self, user_key: str) -> int:
        """Delete one person's events; returns how many there were."""


class RedisStreamLog:
    """The log in Redis Streams."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def append(self, events: Sequence[LoggedEvent]) -> list[bool]:
        """See `EventLog`. Raises redis-py's errors when Redis can't be reached; then sending again is safe."""
        new = [False] * len(events)
        lots = list(_lots(events))
        while lots:
            calls: list[lua.Call] = []
            for partition, period, ids, places in lots:
                told = encode([events[i] for i in places])
                calls.append((_append_keys(partition, period), [_FORGOTTEN_S, b"".join(ids), told, len(ids)]))
            again = []
            for lot, known in zip(lots, lua.run(self._redis, _APPEND, calls), strict=True):
                partition, period, ids, places = lot
                if known:
                    left = [j for j, flag in enumerate(known) if not flag]
                    if left:
                        again.append((partition, period, [ids[j] for j in left], [places[j] for j in left]))
                else:
                    for i in places:
                        new[i] = True
            lots = again
        return new

    def remember(self, events: Iterable[tuple[str, str, str]], *, at: int) -> None:
        """Know the (source, id, user key) of `events` from `at` on, as if they had been appended."""
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for source, name, user_key in events:
            by_partition[_partition(user_key)].append(_digest(source, name))
        for partition, ids in by_partition.items():
            key = _append_keys(partition, at // REMEMBERED_US)[2]
            with self._redis.pipeline(transaction=False) as pipe:
                for place in range(0, len(ids), 5_000):
                    pipe.sadd(key, *ids[place : place + 5_000])
                pipe.expire(key, _FORGOTTEN_S)
                pipe.execute()

    def mark_import(self) -> None:
        """The archive has got events that never were in the log: live workers take notice, and the next drain."""
        for partition in range(PARTITIONS):
            self._redis.set(key_of(partition, "imported"), self.end(partition))
            self._redis.incr(key_of(partition, "generation"))

    def imported_since(self, batch: Batch) -> bool:
        """See `EventLog`."""
        marked: Any = self._redis.get(key_of(batch.partition, "imported"))
        return marked is not None and _halves(batch.first) <= _halves(marked)

    def read(self, partition: int, *, after: bytes, most: int, up_to: bytes = b"+") -> Batch:
        """At most `most` entries after a place."""
        return Batch.of(partition, self._redis.xrange(_stream(partition), b"(" + after, up_to, count=most))  # type: ignore[arg-type]

    def take(self, partition: int, *, most: int) -> Batch:
        """See `EventLog`."""
        return self.read(partition, after=self.archived(partition), most=most)

    def let_go(self, batch: Batch) -> None:
        """See `EventLog`. An entry is deleted once the live worker, if there is one, has passed it too."""
        self._let_go(batch.partition, [batch.last, batch.total])

    def trim(self) -> None:
        """Delete what a live worker has passed since it was archived."""
        for partition in range(PARTITIONS):
            self._let_go(partition, [])

    def archived(self, partition: int) -> bytes:
        """The place of the archive."""
        found: Any = self._redis.hget(key_of(partition, "archived"), "place")
        return bytes(found) if found else BEGINNING

    def end(self, partition: int) -> bytes:
        """The place of the last entry."""
        found: Any = self._redis.xrevrange(_stream(partition), count=1)
        return found[0][0] if found else self.archived(partition)

    def appended(self, partition: int) -> int:
        """How many events were ever appended to a partition."""
        return int(self._redis.get(key_of(partition, "total")) or 0)  # type: ignore[arg-type]

    def of(self, user_key: str) -> list[LoggedEvent]:
        """One person's events that are not both archived and folded yet, in no order."""
        partition = _partition(user_key)
        found: list[LoggedEvent] = []
        batch = self.read(partition, after=BEGINNING, most=100)
        while batch.entries:
            found += [e for columns in batch.events.values() for e in columns.events() if e.user_key == user_key]
            batch = self.read(partition, after=batch.last, most=100)
        return found

    def waiting(self) -> int:
        """Events not archived yet."""
        archived: list[Any] = [self._redis.hget(key_of(p, "archived"), "total") for p in range(PARTITIONS)]
        return sum(max(0, self.appended(p) - int(done or 0)) for p, done in enumerate(archived))

    def erase(self, user_key: str) -> int:
        """See `EventLog`. Reads the person's partition through: it holds only what is not archived or folded yet. Live
        workers then make their memory anew from the archive, so that is to be erased first.
        """
        partition, erased = _partition(user_key), 0
        keys = [_stream(partition), *(key_of(partition, name) for name in ("total", "archived", "generation"))]
        place, end = BEGINNING, self.end(partition)
        while place != end:
            entries: Any = self._redis.xrange(_stream(partition), b"(" + place, end, count=100)
            if not entries:
                break
            for place, fields in entries:
                events = [event for columns in decode(fields[b"e"]) for event in columns.events()]
                left = [e for e in events if e.user_key != user_key]
                if len(left) < len(events):
                    args = [place, len(events), encode(left), len(left)]
                    (done,) = lua.run(self._redis, _REPLACE, [(keys[:3], args)])
                    erased += done * (len(events) - len(left))
        self._redis.incr(keys[3])
        return erased

    def _let_go(self, partition: int, args: list[bytes | int | str]) -> None:
        keys = [_stream(partition), key_of(partition, "archived"), key_of(partition, "live:at")]
        lua.run(self._redis, _LET_GO, [(keys, args)])


def key_of(partition: int, name: str) -> str:
    """A key of one partition; all of them share a slot."""
    return f"{{log:{partition}}}:{name}"


def total_at(entry: Entry) -> int:
    """How many events were appended to the partition up to an entry."""
    return int(_field(entry[1], b"t"))


def _lots(events: Sequence[LoggedEvent]) -> Iterator[tuple[int, int, list[bytes], list[int]]]:
    """Partition, period, ids and places of what goes into one entry; an id that comes twice is taken once."""
    found: dict[tuple[int, int], dict[bytes, int]] = {}
    for i, event in enumerate(events):
        lot = _partition(event.user_key), event.available_at // REMEMBERED_US
        found.setdefault(lot, {}).setdefault(_digest(event.source, event.id), i)
    for (partition, period), held in found.items():
        ids, places = list(held), list(held.values())
        for at in range(0, len(ids), _TOGETHER):
            yield partition, period, ids[at : at + _TOGETHER], places[at : at + _TOGETHER]


def _append_keys(partition: int, period: int) -> list[str]:
    now, before = key_of(partition, f"ids:{period}"), key_of(partition, f"ids:{period - 1}")
    return [_stream(partition), key_of(partition, "total"), now, before]


def _digest(source: str, name: str) -> bytes:
    return blake2b(f"{source}\0{name}".encode(), digest_size=16).digest()


def _partition(user_key: str) -> int:
    return int(user_key[:8], 16) % PARTITIONS


def _stream(partition: int) -> str:
    return key_of(partition, "events")


def _halves(place: bytes) -> tuple[int, int]:
    first, second = place.split(b"-")
    return int(first), int(second)


def _field(fields: Any, name: bytes) -> Any:
    """A field of an entry, as XRANGE gives it (a dict) or a script does (a flat list)."""
    return fields[name] if isinstance(fields, dict) else fields[fields.index(name) + 1]
