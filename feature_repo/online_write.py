"""Writing online values: atomic, newest-wins, and never a value whose grant the projection doesn't hold.

A script in Redis looks at consent and at the row that is there in the same step as it writes. One run of it takes many
people; on a cluster, people of one slot (`docs/adr/0011`).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import redis

from consent import projection
from consent.purposes import Purpose
from feature_repo.views import View
from storage import scripts

__all__ = ["OnlineRow", "erase", "item_key", "to_micros", "write", "write_items"]

# KEYS: consent, row, timetable of each person. ARGV: the grant's place in the projection; (as_of, grant_start) of each
# person, packed; how a grant looks that nobody has ended (`projection.RUNNING`); then row and timetable of each. Answers
# 1 written, 0 no such grant, -1 a newer row is there. A grant that was withdrawn takes nothing any more, not even what
# was computed before: else a slow writer would bring back what the withdrawal deleted.
# Moments stay below 2^53, so Lua's numbers hold them exactly.
_WRITE = """
local at, n, unpack_moments = tonumber(ARGV[1]) + 1, #KEYS / 3, struct.unpack
local runs_out, forever = tonumber(ARGV[3]), tonumber(ARGV[4])
local keys = {}
for i = 1, n do keys[i], keys[n + i] = KEYS[3 * i - 2], KEYS[3 * i - 1] end
local held = redis.call('MGET', unpack(keys))
local answers, put, gone, newest, puts, goes = {}, {}, {}, {}, 0, 0
for i = 1, n do
  local as_of, grant = unpack_moments('<ll', ARGV[2], 16 * i - 15)
  local consent, row, answer = held[i], held[n + i], 0
  if consent and #consent >= at + 23 then
    local start, finish, why = unpack_moments('<lll', consent, at)
    if start == grant and as_of < finish and (why == runs_out or finish == forever) then
      local key = keys[n + i]
      local there = newest[key]
      if not there and row and #row >= 40 and unpack_moments('<l', row, 33) == start then
        there = unpack_moments('<l', row, 9)
      end
      if there and there > as_of then
        answer = -1
      else
        answer, newest[key] = 1, as_of
        put[puts + 1], put[puts + 2], puts = key, ARGV[2 * i + 3], puts + 2
        local timetable = ARGV[2 * i + 4]
        if timetable == '' then gone[goes + 1], goes = KEYS[3 * i], goes + 1
        else put[puts + 1], put[puts + 2], puts = KEYS[3 * i], timetable, puts + 2 end
      end
    end
  end
  answers[i] = answer
end
if goes > 0 then redis.call('DEL', unpack(gone)) end
if puts > 0 then redis.call('MSET', unpack(put)) end
return answers
"""
_PER_CALL = 200
"""People in one run of the script: Redis does nothing else meanwhile, under a millisecond."""
_PER_TRIP = 4_000
"""People in one round trip."""


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """One person's row for one purpose, ready to be written."""

    user_key: str
    row: bytes
    timetable: bytes
    as_of: int
    grant_start: int


def to_micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return round(at.timestamp() * 1_000_000)


def write(client: redis.Redis, view: View, rows: Iterable[OnlineRow]) -> tuple[int, int]:
    """Write `rows`; returns (written, left out because consent no longer holds or a newer row is there).

    While one lot is on its way the next is made ready. Every lot that was sent is written, whatever follows.
    """
    written = total = 0
    source = iter(rows)
    with ThreadPoolExecutor(max_workers=1) as sender:
        on_its_way: Future[list[Any]] | None = None
        while lot := list(islice(source, _PER_TRIP)):
            calls = list(_calls(client, view, lot))
            if on_its_way is not None:
                written += _written(on_its_way)
            on_its_way = sender.submit(scripts.run, client, _WRITE, calls)
            total += len(lot)
        if on_its_way is not None:
            written += _written(on_its_way)
    return written, total - written


def erase(client: redis.Redis, user_key: str) -> int:
    """Delete what is known online of one person, for every purpose, experiments included; returns how many keys there were.

    The consent projection stays: it says that nothing may be written again, if that is what the ledger says.
    """
    keys = [key for purpose in Purpose for key in projection.feature_keys(user_key, purpose)]
    return int(client.delete(*keys, projection.assignments_key(user_key)))  # type: ignore[arg-type]


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


def _calls(client: redis.Redis, view: View, lot: Sequence[OnlineRow]) -> Iterator[scripts.Call]:
    """One run of the script for a few hundred people; on a cluster only of one slot."""
    offset = projection.ROW.fields["grants"][1] + 24 * projection.slot(view.purpose)  # type: ignore[index]
    for people in _together(client, lot):
        keys = [
            key
            for row in people
            for key in (projection.consent_key(row.user_key), *projection.feature_keys(row.user_key, view.purpose))
        ]
        moments = struct.pack(f"<{2 * len(people)}q", *(m for row in people for m in (row.as_of, row.grant_start)))
        yield (
            keys,
            [offset, moments, *projection.RUNNING, *(blob for row in people for blob in (row.row, row.timetable))],
        )


def _together(client: redis.Redis, lot: Sequence[OnlineRow]) -> Iterator[Sequence[OnlineRow]]:
    if not scripts.is_cluster(client):
        yield from _pieces(lot)
        return
    slots: dict[int, list[OnlineRow]] = defaultdict(list)
    for row in lot:
        slots[scripts.slot_of(client, projection.consent_key(row.user_key))].append(row)
    for people in slots.values():
        yield from _pieces(people)


def _pieces(rows: Sequence[OnlineRow]) -> Iterator[Sequence[OnlineRow]]:
    return (rows[at : at + _PER_CALL] for at in range(0, len(rows), _PER_CALL))


def _written(on_its_way: Future[list[Any]]) -> int:
    return sum(answers.count(1) for answers in on_its_way.result())
