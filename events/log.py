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

__all__ = ["PARTITIONS", "EventLog", "LoggedEvent", "RedisStreamLog"]

PARTITIONS = 4
_REMEMBERED_S = 35 * 86_400
_GROUP, _READER = "archive", "archive"

# An id that is known already is not appended: both in one step, so that two senders can't both be first.
_APPEND = """
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', ARGV[2]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
return 1
"""


class LoggedEvent(msgspec.Struct, array_like=True, frozen=True):
    """One accepted event. Moments are microseconds since 1970."""

    source: str
    id: str
    type: str
    user_key: str
    occurred_at: int
    available_at: int
    fields: dict[str, str | int | float | None]


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
        with self._redis.pipeline(transaction=False) as pipe:
            for event in events:
                partition = _partition(event.user_key)
                name = blake2b(f"{event.source}\0{event.id}".encode(), digest_size=16).hexdigest()
                keys = [_stream(partition), f"{{log:{partition}}}:id:{name}"]
                script(keys=keys, args=[msgspec.msgpack.encode(event), _REMEMBERED_S], client=pipe)
            return [bool(answer) for answer in pipe.execute()]

    def take(self, partition: int, *, most: int) -> Batch:
        """See `EventLog`: first what was taken before and not let go of, then what is new."""
        self._make_group(partition)
        for position in ("0", ">"):
            answer: Any = self._redis.xreadgroup(_GROUP, _READER, {_stream(partition): position}, count=most)
            entries = [(place, fields) for _, found in answer for place, fields in found if fields]
            if entries:
                events = [msgspec.msgpack.decode(fields[b"e"], type=LoggedEvent) for _, fields in entries]
                return Batch(partition, [place for place, _ in entries], events)
        return Batch(partition, [], [])

    def let_go(self, batch: Batch) -> None:
        """See `EventLog`."""
        if batch.places:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(_stream(batch.partition), _GROUP, *batch.places)
                pipe.xdel(_stream(batch.partition), *batch.places)
                pipe.execute()

    def erase(self, user_key: str) -> int:
        """See `EventLog`. Reads the person's partition through: it holds only what is not archived yet."""
        stream = _stream(_partition(user_key))
        theirs = [place for place, _ in self._of(user_key)]
        return int(self._redis.xdel(stream, *theirs)) if theirs else 0  # type: ignore[arg-type]

    def of(self, user_key: str) -> list[LoggedEvent]:
        """One person's events that are not archived yet."""
        return [event for _, event in self._of(user_key)]

    def _of(self, user_key: str) -> list[tuple[bytes, LoggedEvent]]:
        entries: Any = self._redis.xrange(_stream(_partition(user_key)))
        events = ((place, msgspec.msgpack.decode(f[b"e"], type=LoggedEvent)) for place, f in entries)
        return [(place, event) for place, event in events if event.user_key == user_key]

    def waiting(self) -> int:
        """Events not archived yet."""
        lengths: list[Any] = [self._redis.xlen(_stream(p)) for p in range(PARTITIONS)]
        return sum(lengths)

    def _make_group(self, partition: int) -> None:
        try:
            self._redis.xgroup_create(_stream(partition), _GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _partition(user_key: str) -> int:
    return int(user_key[:8], 16) % PARTITIONS


def _stream(partition: int) -> str:
    return f"{{log:{partition}}}:events"
