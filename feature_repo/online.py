"""The online values: one packed row a person and purpose in Redis, beside the person's consent, under one hash tag.

Writing is atomic and newest-wins, and never puts down a value whose grant the projection doesn't hold: a script in Redis
looks at the consent key in the same step. Reading fetches consent and features of all people in one `MGET`; what was
computed under another grant than the one in force is not read, even if it were still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import redis

from consent import projection
from consent.policy import Decision
from consent.purposes import Purpose
from feature_repo.errors import OnlineStoreUnavailable
from feature_repo.frame import Status
from feature_repo.live_rows import evaluate, generation, state_key
from feature_repo.packed import HEADER, numbers_size, sequences_of, unpack_timetable
from feature_repo.views import View
from storage.redis_server import UNREACHABLE

__all__ = ["OnlineRow", "OnlineValues", "item_key", "read", "read_items", "to_micros", "write", "write_items"]

# KEYS: consent, row, timetable, folded state. ARGV: row, timetable, as_of, grant_start, offset of the grant in the
# projection, generation of the live states.
# Moments stay below 2^53, so Lua's numbers hold them exactly. Where a live state of the same declarations and grant is, its
# row is the newer one whatever its moment: a build knows nothing of events still in the log.
_WRITE = """
local consent = redis.call('GET', KEYS[1])
local at = tonumber(ARGV[5])
if not consent or #consent < at + 16 then return 0 end
local start, finish = struct.unpack('<ll', consent, at + 1)
if start ~= tonumber(ARGV[4]) or finish <= tonumber(ARGV[3]) then return 0 end
local live = redis.call('GETRANGE', KEYS[4], 0, 15)
if #live == 16 and string.sub(live, 1, 4) == string.sub(ARGV[1], 1, 4) and string.sub(live, 5, 8) == ARGV[6]
  and struct.unpack('<l', live, 9) == start then
  return -2
end
local held = redis.call('GET', KEYS[2])
if held and #held >= 40 then
  local as_of, _, _, held_start = struct.unpack('<llll', held, 9)
  if held_start == start and as_of > tonumber(ARGV[3]) then return -1 end
end
redis.call('SET', KEYS[2], ARGV[1])
if ARGV[2] == '' then redis.call('DEL', KEYS[3]) else redis.call('SET', KEYS[3], ARGV[2]) end
return 1
"""
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """One person's row for one purpose, ready to be written."""

    user_key: str
    row: bytes
    timetable: bytes
    as_of: int
    grant_start: int


@dataclass(frozen=True, slots=True)
class OnlineValues:
    """What was read for several people: all numbers of a view, and its sequences."""

    values: np.ndarray
    """float64 `[n_users, n_numbers]`; times since a moment are in days; NaN wherever `status` is not PRESENT."""
    status: np.ndarray
    """uint8 `[n_users, n_numbers]` of `frame.Status`."""
    decisions: list[Decision]
    sequences: list[list[list[str]]]
    """For each of the view's sequences, one list a user."""


def to_micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return round(at.timestamp() * 1_000_000)


def write(client: redis.Redis, view: View, rows: Iterable[OnlineRow]) -> tuple[int, int]:
    """Write `rows`; returns (written, left out because consent no longer holds or a newer row is there)."""
    script = client.register_script(_WRITE)
    offset = projection.ROW.fields["grants"][1] + 24 * projection.slot(view.purpose)  # type: ignore[index]
    current = generation(client).to_bytes(4, "little")
    written = left_out = 0
    pipe = client.pipeline(transaction=False)
    for row in rows:
        keys = [projection.consent_key(row.user_key), *projection.feature_keys(row.user_key, view.purpose)]
        script(keys=keys, args=[row.row, row.timetable, row.as_of, row.grant_start, offset, current], client=pipe)
        if len(pipe) >= _BATCH:
            answers = pipe.execute()
            written, left_out = written + answers.count(1), left_out + len(answers) - answers.count(1)
    answers = pipe.execute()
    return written + answers.count(1), left_out + len(answers) - answers.count(1)


def read(
    client: redis.Redis,
    view: View,
    user_keys: Sequence[str],
    *,
    purposes: Sequence[Purpose],
    now: datetime,
) -> OnlineValues:
    """All values of `view` for `user_keys` at `now`, where every one of `purposes` is granted; DENIED elsewhere.

    Raises `OnlineStoreUnavailable` when Redis can't be reached.
    """
    count, at = len(user_keys), to_micros(now)
    keys = [projection.consent_key(k) for k in user_keys]
    keys += [f"{{u:{k}}}:f:{view.purpose}" for k in user_keys]
    try:
        blobs: list[bytes | None] = client.mget(keys) if keys else []  # type: ignore[assignment]
    except UNREACHABLE as error:
        raise OnlineStoreUnavailable(
            f"Redis can't be reached ({error}); nothing can be answered until it is."
        ) from error
    decisions = _decide(blobs[:count], purposes, now=now)
    allowed = np.fromiter((d.allowed for d in decisions), dtype=bool, count=count)
    rows, _, _ = projection.unpack(blobs[:count])
    in_force = rows["grants"]["start"][:, projection.slot(view.purpose)]
    headers, values = _numbers(view, blobs[count:])
    ours = allowed & (headers["fingerprint"] == view.fingerprint) & (headers["grant_start"] == in_force)
    fresh = ours & (at < headers["expires_at"])
    newer = _catch_up(
        client, view, user_keys, headers, values, stale=fresh & (headers["valid_until"] <= at), now=at, fresh=fresh
    )
    _tell_time(view, values, now=at)
    status = np.where(np.isnan(values), Status.NULL, Status.PRESENT).astype(np.uint8)
    status[~fresh] = Status.EXPIRED
    status[~ours] = Status.NOT_FOUND
    status[~allowed] = Status.DENIED
    values[status != Status.PRESENT] = np.nan
    lists = [sequences_of(view, b) if ok and b else None for ok, b in zip(fresh, blobs[count:], strict=True)]
    for place, row in newer.items():
        lists[place] = row
    sequences = [[row[i] if row else [] for row in lists] for i in range(len(view.sequences))]
    return OnlineValues(values, status, decisions, sequences)


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
        if len(pipe) >= _BATCH:
            pipe.execute()
    pipe.execute()
    return written


def read_items(
    client: redis.Redis, view: View, item_ids: Sequence[str], *, now: datetime
) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 `[n_items, n_numbers]` and status of `item_ids`; items have no consent of their own."""
    try:
        blobs = client.mget([item_key(i, view.purpose) for i in item_ids]) if item_ids else []
    except UNREACHABLE as error:
        raise OnlineStoreUnavailable(
            f"Redis can't be reached ({error}); nothing can be answered until it is."
        ) from error
    headers, values = _numbers(view, blobs)  # type: ignore[arg-type]
    at = to_micros(now)
    found = headers["fingerprint"] == view.fingerprint
    fresh = found & (at < headers["expires_at"]) & (at < headers["valid_until"])
    _tell_time(view, values, now=at)
    status = np.where(np.isnan(values), Status.NULL, Status.PRESENT).astype(np.uint8)
    status[~fresh] = Status.EXPIRED
    status[~found] = Status.NOT_FOUND
    values[status != Status.PRESENT] = np.nan
    return values, status


def _decide(blobs: Sequence[bytes | None], purposes: Sequence[Purpose], *, now: datetime) -> list[Decision]:
    """One decision a person: the first purpose that is denied, else the first of all."""
    made = projection.decisions(blobs, purpose=purposes[0], now=now)
    for purpose in purposes[1:]:
        if any(d.allowed for d in made):
            others = projection.decisions(blobs, purpose=purpose, now=now)
            made = [d if not d.allowed or o.allowed else o for d, o in zip(made, others, strict=True)]
    return made


def _numbers(view: View, blobs: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Headers `[n]` and numbers `[n, n_numbers]` (a copy that may be written to); zeros where there is no sound row."""
    size = numbers_size(view)
    empty = bytes(size)
    sound = b"".join(b[:size] if b is not None and len(b) >= size else empty for b in blobs)
    layout = np.dtype([("header", HEADER), ("numbers", "<f8", (len(view.numbers),))])
    table = np.frombuffer(sound, layout)
    return table["header"], table["numbers"].copy()


def _catch_up(
    client: redis.Redis,
    view: View,
    user_keys: Sequence[str],
    headers: np.ndarray,
    values: np.ndarray,
    *,
    stale: np.ndarray,
    now: int,
    fresh: np.ndarray,
) -> dict[int, list[list[str]]]:
    """Where a value has changed by itself since the row was written, take it from the timetable or the live state.

    Returns the sequences of those whose state was evaluated.
    """
    places = np.flatnonzero(stale).tolist()
    sequences: dict[int, list[list[str]]] = {}
    if not places:
        return sequences
    blobs: list[bytes | None] = client.mget([f"{{u:{user_keys[i]}}}:s:{view.purpose}" for i in places])  # type: ignore[assignment]
    live: list[int] = []
    for i, blob in zip(places, blobs, strict=True):
        timetable = unpack_timetable(view, blob, grant_start=int(headers["grant_start"][i]))
        due = timetable.at(now) if timetable else None
        if due is None:
            live.append(i)
        else:
            values[i] = due
    states: list[bytes | None] = client.mget([state_key(user_keys[i], view.purpose) for i in live]) if live else []  # type: ignore[assignment]
    for i, blob in zip(live, states, strict=True):
        found = evaluate(view, blob, grant_start=int(headers["grant_start"][i]), now=now)
        if found is None:
            fresh[i] = False
        else:
            values[i], sequences[i] = found
    return sequences


def _tell_time(view: View, values: np.ndarray, *, now: int) -> None:
    """Turn moments into days since them, in place."""
    since = np.array(view.since, dtype=bool)
    values[:, since] = (now - values[:, since]) / 86_400_000_000
