"""The event log: what was accepted and is not in the archive yet, in Redis Streams.

Events of one person are in one partition, in the order they were accepted. (`source`, `id`) is recognised for five weeks
in the log and for ever in the archive. The interface is small enough that Kafka can be another implementation of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import msgspec
import redis

__all__ = ["PARTITIONS", "Batch", "EventLog", "LoggedEvent", "RedisStreamLog", "make_group", "stream_of"]

PARTITIONS = 4
_REMEMBERED_S = 35 * 86_400
_GROUP, _READER = "archive", "archive"

# An id that is known already is not appended: both in one step, so that two senders can't both be first.
# KEYS: stream, then a key for each id. ARGV: seconds to remember ids, then the events.
_APPEND = """
local new = {}
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '', 'NX', 'EX', ARGV[1]) then
    redis.call('XADD', KEYS[1], '*', 'e', ARGV[i])
    new[i - 1] = 1
  else
    new[i - 1] = 0
  end
end
return new
"""
_TOGETHER = 200
"""Events of one partition appended by one script call; no call holds up Redis for long."""


class LoggedEvent(msgspec.Struct, array_like=True, frozen=True):
    """One accepted event. Moments are microseconds since 1970."""

    source: str
    id: str
    type: str
    user_key: str
    occurred_at: int
    available_at: int
    fields: dict[str, str | int | float | None]


_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one partition that the archive has not taken yet, with their places in the log."""

    partition: int
    places: list[bytes]
    events: list[LoggedEvent]


class EventLog(Protocol):
    """Append, take what is new, let go of what is archived, erase one person."""

    def append(self, events: Sequence[LoggedEvent]) -> list[bool]:
        """Append `events`; for each, whether it was new."""

    def take(self, partition: int, *, most: int) -> Batch:
        """The oldest events of a partition that were not let go of yet."""

    def let_go(self, batch: Batch) -> None:
        """The archive has them."""

    def erase(self, user_key: str) -> int:
        """Delete one person's events; returns how many there were."""


class RedisStreamLog:
    """The log in Redis Streams."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def append(self, events: Sequence[LoggedEvent]) -> list[bool]:
        """See `EventLog`. Raises redis-py's errors when Redis can't be reached; then sending again is safe."""
        script = self._redis.register_script(_APPEND)
        by_partition: dict[int, list[int]] = {}
        for i, event in enumerate(events):
            by_partition.setdefault(_partition(event.user_key), []).append(i)
        sent: list[list[int]] = []
        new = [False] * len(events)
        with self._redis.pipeline(transaction=False) as pipe:
            for partition, mine in by_partition.items():
                for at in range(0, len(mine), _TOGETHER):
                    some = mine[at : at + _TOGETHER]
                    keys = [stream_of(partition), *(_id_key(partition, events[i]) for i in some)]
                    script(keys=keys, args=[_REMEMBERED_S, *(_encode(events[i]) for i in some)], client=pipe)
                    sent.append(some)
            for some, answer in zip(sent, pipe.execute(), strict=True):
                for i, added in zip(some, answer, strict=True):
                    new[i] = added == 1
        return new

    def take(self, partition: int, *, most: int) -> Batch:
        """See `EventLog`: first what was taken before and not let go of, then what is new."""
        self._make_group(partition)
        for position in ("0", ">"):
            answer: Any = self._redis.xreadgroup(_GROUP, _READER, {stream_of(partition): position}, count=most)
            entries = [(place, fields) for _, found in answer for place, fields in found if fields]
            if entries:
                events = [msgspec.msgpack.decode(fields[b"e"], type=LoggedEvent) for _, fields in entries]
                return Batch(partition, [place for place, _ in entries], events)
        self._trim(partition)  # other readers may have let go of entries since
        return Batch(partition, [], [])

    def let_go(self, batch: Batch) -> None:
        """See `EventLog`. An entry is deleted once every reader of the log has let go of it."""
        if batch.places:
            self._redis.xack(stream_of(batch.partition), _GROUP, *batch.places)
        self._trim(batch.partition)

    def archived_up_to(self, partition: int) -> bytes:
        """The last entry that was taken for the archive (`0-0` before the first): what is later isn't in the archive."""
        group = self._groups(partition).get(_GROUP)
        return group["last-delivered-id"] if group else b"0-0"

    def erase(self, user_key: str) -> int:
        """See `EventLog`. Reads the person's partition through: it holds only what is not archived yet."""
        stream = stream_of(_partition(user_key))
        entries: Any = self._redis.xrange(stream)
        theirs = [p for p, f in entries if msgspec.msgpack.decode(f[b"e"], type=LoggedEvent).user_key == user_key]
        return int(self._redis.xdel(stream, *theirs)) if theirs else 0  # type: ignore[arg-type]

    def waiting(self) -> int:
        """Events not archived yet."""
        return sum(self._waiting(partition) for partition in range(PARTITIONS))

    def _waiting(self, partition: int) -> int:
        group = self._groups(partition).get(_GROUP)
        if group is None:
            length: Any = self._redis.xlen(stream_of(partition))
            return int(length)
        lag = group.get("lag")
        if lag is None:  # Redis can't tell once entries were deleted from the middle
            later: Any = self._redis.xrange(stream_of(partition), min=b"(" + group["last-delivered-id"])
            lag = len(later)
        return int(group["pending"]) + int(lag)

    def _trim(self, partition: int) -> None:
        """Delete what no reader needs again: everything before the oldest entry some group hasn't acknowledged."""
        oldest = []
        for name, group in self._groups(partition).items():
            if group["pending"]:
                pending: Any = self._redis.xpending(stream_of(partition), name)
                oldest.append(_halves(pending["min"]))
            else:
                first, second = _halves(group["last-delivered-id"])
                oldest.append((first, second + 1))
        if oldest:
            self._redis.xtrim(stream_of(partition), minid="{}-{}".format(*min(oldest)), approximate=False)

    def _groups(self, partition: int) -> dict[str, dict[str, Any]]:
        try:
            found: Any = self._redis.xinfo_groups(stream_of(partition))
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return {}
            raise
        return {group["name"].decode(): group for group in found}

    def _make_group(self, partition: int) -> None:
        make_group(self._redis, partition, _GROUP)


def make_group(client: redis.Redis, partition: int, name: str) -> None:
    """Make a group of readers that begins with the oldest entry, unless there is one."""
    try:
        client.xgroup_create(stream_of(partition), name, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _halves(place: bytes) -> tuple[int, int]:
    first, second = place.split(b"-")
    return int(first), int(second)


def _id_key(partition: int, event: LoggedEvent) -> str:
    name = blake2b(f"{event.source}\0{event.id}".encode(), digest_size=16).hexdigest()
    return f"{{log:{partition}}}:id:{name}"


def _partition(user_key: str) -> int:
    return int(user_key[:8], 16) % PARTITIONS


def stream_of(partition: int) -> str:
    """Where the entries of a partition are."""
    return f"{{log:{partition}}}:events"
