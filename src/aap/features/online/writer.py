"""Writing online values: atomic, newest-wins, and never a value whose grant the projection doesn't hold.

A script in Redis looks at consent and at the row that is there in the same step as it writes. One run of it takes many
people; on a cluster, people of one slot (`docs/adr/0011`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import redis

from aap.consent import redis_projection
from aap.consent.purposes import Purpose
from aap.features.online.row_codec import PackedRows
from aap.features.views import View
from aap.infra.redis import lua

__all__ = ["OnlineRow", "OnlineRows", "erase", "item_key", "to_micros", "write", "write_items", "write_many"]

# Of n people, each once. KEYS: n projections, n rows, n timetables; or none, on one server, where the script makes them: that
# is less to send, to read and to hold. ARGV: where in a projection the grant is, where its reason, how long a projection is;
# how a grant looks that nobody has ended (`projection.RUNNING`); (as_of, grant_start) of each person, packed; a byte for
# each, 1 where a timetable comes with the row; the people, of one length each, and the purpose (if there are no KEYS); n rows
# in one, and n + 1 edges between them, packed; those timetables. Answers how many were written. What is written begins with
# the projection as it stands. A newer row stays. A grant that was withdrawn takes nothing any more, not even what was
# computed before: else a slow writer would bring back what the withdrawal deleted. A row whose projection was lost goes.
# Offsets in a row are `packed.HEADER`'s; one that no change is coming to (`valid_until` never) has no timetable. Moments
# stay below 2^53, so Lua's numbers hold them exactly.
_WRITE = """
local at, why_at, size = ARGV[1] + 1, ARGV[2] + 1, tonumber(ARGV[3])
local runs_out, forever, moments, timed = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local people, purpose, rows, edges = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local read, byte, sub, n, timetables = struct.unpack, string.byte, string.sub, #timed, 11
local keys, each = KEYS, #people / n
if #keys == 0 then
  keys = {}
  for i = 1, n do
    local head = '{u:' .. sub(people, each * (i - 1) + 1, each * i)
    keys[i], keys[n + i] = head .. '}:c', head .. '}:f:' .. purpose
  end
end
local function timetable_key(i)
  return keys[2 * n + i] or '{u:' .. sub(people, each * (i - 1) + 1, each * i) .. '}:s:' .. purpose
end
local held = redis.call('MGET', unpack(keys, 1, 2 * n))
local put, gone, puts, goes, written = {}, {}, 0, 0, 0
for i = 1, n do
  local consent, row, has_timetable = held[i], held[n + i], byte(timed, i) == 1
  if has_timetable then timetables = timetables + 1 end
  if consent and #consent == size then
    local as_of, grant = read('<ll', moments, 16 * i - 15)
    local start, finish = read('<ll', consent, at)
    if start == grant and as_of < finish and (byte(consent, why_at) == runs_out or finish == forever) then
      local there, until_, expires, there_grant
      if row and #row >= size + 40 then there, until_, expires, there_grant = read('<llll', row, size + 9) end
      if not (there and there_grant == start and there > as_of) then
        local first, last = read('<I4I4', edges, 4 * i - 3)
        put[puts + 1], put[puts + 2], puts = keys[n + i], consent .. sub(rows, first + 1, last), puts + 2
        written = written + 1
        if has_timetable then put[puts + 1], put[puts + 2], puts = timetable_key(i), ARGV[timetables], puts + 2
        elseif row and (not there or until_ < 9e18) then gone[goes + 1], goes = timetable_key(i), goes + 1 end
      end
    end
  elseif row then
    gone[goes + 1], gone[goes + 2], goes = keys[n + i], timetable_key(i), goes + 2
  end
end
if goes > 0 then redis.call('DEL', unpack(gone)) end
if puts > 0 then redis.call('MSET', unpack(put)) end
return written
"""
_PER_CALL = 200
"""People in one run of the script: Redis does nothing else meanwhile, under a millisecond."""
_PER_TRIP = 4_000
"""People in one round trip."""


_AHEAD = 2
"""Lots that may wait to be sent while the next is made ready."""


class OnlineRow(NamedTuple):
    """One person's row for one purpose, ready to be written; the script puts the consent in front of `row`."""

    user_key: str
    row: bytes
    timetable: bytes
    """Empty where nothing changes by itself."""
    as_of: int
    grant_start: int


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """The same of many people, as columns."""

    user_keys: Sequence[str]
    rows: Sequence[bytes]
    timetables: Sequence[bytes]
    as_of: np.ndarray
    """int64 `[n]`."""
    grant_start: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[OnlineRow]) -> OnlineRows:
        """From rows one by one, at least one."""
        user_keys, packed, timetables, as_of, grant_start = zip(*rows, strict=True)
        return cls(user_keys, packed, timetables, np.array(as_of, np.int64), np.array(grant_start, np.int64))

    def __len__(self) -> int:
        return len(self.user_keys)

    def __iter__(self) -> Iterator[OnlineRow]:
        as_of, grant_start = self.as_of.tolist(), self.grant_start.tolist()
        return map(OnlineRow, self.user_keys, self.rows, self.timetables, as_of, grant_start)

    def between(self, first: int, end: int) -> OnlineRows:
        """Those from place `first` up to `end`."""
        some = slice(first, end)
        return OnlineRows(
            self.user_keys[some], self.rows[some], self.timetables[some], self.as_of[some], self.grant_start[some]
        )

    def at(self, places: Sequence[int]) -> OnlineRows:
        """Those at `places`, in their order."""
        take = itemgetter(*places, places[0])  # of two at least it makes a tuple
        user_keys, rows, timetables = (take(column)[:-1] for column in (self.user_keys, self.rows, self.timetables))
        return OnlineRows(user_keys, rows, timetables, self.as_of[places], self.grant_start[places])


def to_micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return round(at.timestamp() * 1_000_000)


def write(client: redis.Redis, view: View, rows: Iterable[OnlineRow]) -> tuple[int, int]:
    """Write `rows`; returns (written, left out because consent no longer holds or a newer row is there)."""
    source = iter(rows)
    lots = iter(lambda: list(islice(source, _PER_TRIP)), [])
    return write_many(client, view, map(OnlineRows.of, lots))


def write_many(client: redis.Redis, view: View, many: Iterable[OnlineRows]) -> tuple[int, int]:
    """Write `many`, as `write` does.

    While one lot is on its way the next is made ready. Every lot that was sent is written, whatever follows.
    """
    written, total, declared = 0, 0, lua.is_cluster(client)
    with ThreadPoolExecutor(max_workers=1) as sender:
        on_their_way: deque[Future[list[int]]] = deque()
        for rows in many:
            for first in range(0, len(rows), _PER_TRIP):
                lot = rows.between(first, first + _PER_TRIP)
                calls = [_call(view, people, declared=declared) for people in _together(client, lot)]
                if len(on_their_way) == _AHEAD:
                    written += sum(on_their_way.popleft().result())
                on_their_way.append(sender.submit(lua.run, client, _WRITE, calls))
                total += len(lot)
        written += sum(sum(sent.result()) for sent in on_their_way)
    return written, total - written


def erase(client: redis.Redis, user_key: str) -> int:
    """Delete what is known online of one person, for every purpose, experiments included; returns how many keys there were.

    The consent projection stays: it says that nothing may be written again, if that is what the ledger says.
    """
    keys = [key for purpose in Purpose for key in redis_projection.feature_keys(user_key, purpose)]
    return int(client.delete(*keys, redis_projection.assignments_key(user_key)))  # type: ignore[arg-type]


def item_key(item_id: str, purpose: Purpose) -> str:
    """Where an item's packed row is."""
    return f"{{i:{item_id}}}:f:{purpose}"


def write_items(client: redis.Redis, view: View, rows: Iterable[tuple[str, bytes]]) -> int:
    """Write the packed rows of items; returns how many."""
    written = 0
    pipe = client.pipeline(transaction=False)
    for item_id, row in rows:
        pipe.set(item_key(item_id, view.purpose), row)
        written += 1
        if len(pipe) >= _PER_TRIP:
            pipe.execute()
    pipe.execute()
    return written


def _call(view: View, people: OnlineRows, *, declared: bool) -> lua.Call:
    """One run of the script for a few hundred different people; on a cluster only of one slot, with the keys `declared`."""
    user_keys = people.user_keys
    who = "".join(user_keys)
    declared = declared or len(set(map(len, user_keys))) > 1 or not who.isascii()
    moments = np.array((people.as_of, people.grant_start), dtype="<i8").T.tobytes()
    timed = bytes(map(bool, people.timetables))
    rows = PackedRows.of(people.rows)
    edges = (rows.edges - rows.edges[0]).astype("<u4").tobytes()
    keys: list[str] = []
    if declared:
        keys += redis_projection.consent_keys(user_keys)
        keys += redis_projection.row_keys(user_keys, view.purpose)
        keys += redis_projection.timetable_keys(user_keys, view.purpose)
    where = (*redis_projection.places(view.purpose), redis_projection.ROW.itemsize, *redis_projection.RUNNING)
    told = [*where, moments, timed, "" if declared else who, str(view.purpose), rows.joined(), edges]
    return keys, [*told, *filter(None, people.timetables)]


def _together(client: redis.Redis, lot: OnlineRows) -> Iterator[OnlineRows]:
    """The lot in pieces for one run each; a person's second row comes in a later one, so that the newest is kept."""
    if not lua.is_cluster(client):
        yield from _pieces(lot)
        return
    slots: dict[int, list[int]] = defaultdict(list)
    for place, user_key in enumerate(lot.user_keys):
        slots[lua.slot_of(client, redis_projection.consent_key(user_key))].append(place)
    for places in slots.values():
        yield from _pieces(lot.at(places))


def _pieces(rows: OnlineRows) -> Iterator[OnlineRows]:
    again: list[int] = []
    if len(set(rows.user_keys)) < len(rows):
        seen: set[str] = set()
        once: list[int] = []
        for place, user_key in enumerate(rows.user_keys):
            (again if user_key in seen else once).append(place)
            seen.add(user_key)
        rows, later = rows.at(once), rows.at(again)
    yield from (rows.between(at, at + _PER_CALL) for at in range(0, len(rows), _PER_CALL))
    if again:
        yield from _pieces(later)
