"""The projection: each person's current grants, kept in Redis beside their features so that every read can obey them.

One key a person, `{u:KEY}:c`, of fixed size: the ledger position it was made at, for every purpose, in enum order, the
reason that holds outside of its current grant, and then that grant's start and end (microseconds since 1970). A batch of
people is one `MGET` and one numpy view. A missing or misshapen value denies.

Every packed row of a person begins with a copy of it, so that reading the row is reading the consent (`docs/adr/0013`).
`write` changes the projection and the copies, and deletes the rows that lost their grant, in one atomic step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import redis

from aap.consent.decision_batch import Decisions
from aap.consent.policy import FOREVER, Decision, Grant, Reason
from aap.consent.purposes import Purpose
from aap.infra.redis import lua

__all__ = [
    "ROW",
    "RUNNING",
    "WORDS",
    "assignments_key",
    "consent_key",
    "consent_keys",
    "decide",
    "decisions",
    "decisions_and_starts",
    "feature_keys",
    "judge",
    "pack",
    "places",
    "position",
    "row_keys",
    "slot",
    "start_word",
    "timetable_keys",
    "unpack",
    "write",
]

_PURPOSES = tuple(Purpose)
_SLOTS = {purpose: place for place, purpose in enumerate(_PURPOSES)}
_REASONS = tuple(Reason)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_GRANT = np.dtype([("start", "<i8"), ("end", "<i8")])
_REASON_BYTES = -(-len(_PURPOSES) // 8) * 8
ROW = np.dtype([("seq", "<i8"), ("reasons", "u1", (_REASON_BYTES,)), ("grants", _GRANT, (len(_PURPOSES),))])
"""Layout of one projection: `seq`, a reason's index a purpose (filled up to whole words), then (start, end) a purpose."""

WORDS = ROW.itemsize // 8
"""A projection read as integers of eight bytes has this many."""

_GRANTS_AT = int(ROW.fields["grants"][1])  # type: ignore[index]
_NOTHING = bytes(ROW.itemsize)

RUNNING = (_REASONS.index(Reason.EXPIRED), (FOREVER - _EPOCH) // timedelta(microseconds=1))
"""A grant that nobody has ended either runs out by itself (this reason) or never (this end)."""

# Newest wins: a slow writer never overwrites what a later ledger position said. KEYS: projection, then the feature keys of
# every purpose, the row first, in enum order, then the assignments. ARGV: projection, now, where in it the grants begin, how
# many keys a purpose has, the place among KEYS of the purpose that assignments are made for. What a purpose knew is deleted
# unless the grant it was learned under is still the one in force; a row that stays begins with a copy of the projection,
# which follows in the same step.
_WRITE = """
local held, told = redis.call('GET', KEYS[1]), ARGV[1]
if held and #held >= 8 and struct.unpack('<l', held) > struct.unpack('<l', told) then return 0 end
redis.call('SET', KEYS[1], told)
local now, grants, each, gone = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), {}
local comparable = held and #held == #told
for i = 2, #KEYS - 1, each do
  local at = grants + 1 + 16 * (i - 2) / each
  local start, finish = struct.unpack('<ll', told, at)
  if comparable and struct.unpack('<l', held, at) == start and start <= now and now < finish then
    if redis.call('STRLEN', KEYS[i]) > #told then redis.call('SETRANGE', KEYS[i], 0, told) end
  else
    for j = i, i + each - 1 do gone[#gone + 1] = KEYS[j] end
    if i == tonumber(ARGV[5]) then gone[#gone + 1] = KEYS[#KEYS] end
  end
end
if #gone > 0 then redis.call('DEL', unpack(gone)) end
return 1
"""


def consent_key(user_key: str) -> str:
    """Where a person's projection is."""
    return f"{{u:{user_key}}}:c"


def consent_keys(user_keys: Sequence[str]) -> list[str]:
    """Where the projections of several people are."""
    return ["{u:" + key + "}:c" for key in user_keys]


def row_keys(user_keys: Sequence[str], purpose: Purpose) -> list[str]:
    """Where the packed rows of several people are: the first of `feature_keys` of each."""
    tail = f"}}:f:{purpose}"
    return ["{u:" + key + tail for key in user_keys]


def timetable_keys(user_keys: Sequence[str], purpose: Purpose) -> list[str]:
    """Where the timetables of several people are: the second of `feature_keys` of each."""
    tail = f"}}:s:{purpose}"
    return ["{u:" + key + tail for key in user_keys]


def feature_keys(user_key: str, purpose: Purpose) -> tuple[str, str]:
    """The packed row and the timetable of one person for one purpose."""
    return f"{{u:{user_key}}}:f:{purpose}", f"{{u:{user_key}}}:s:{purpose}"


def assignments_key(user_key: str) -> str:
    """Which variants of experiments one person was assigned, all under the purpose `functional.service.improve`."""
    return f"{{u:{user_key}}}:x"


def slot(purpose: Purpose) -> int:
    """The place of `purpose` in `ROW["grants"]` and `ROW["reasons"]`."""
    return _SLOTS[purpose]


def start_word(purpose: Purpose) -> int:
    """Which integer of a projection read as `WORDS` is the start of the grant of `purpose`; its end follows."""
    return _GRANTS_AT // 8 + 2 * _SLOTS[purpose]


def places(purpose: Purpose) -> tuple[int, int]:
    """Where in a projection, in bytes, the grant of `purpose` and its reason are: for scripts."""
    return _GRANTS_AT + _GRANT.itemsize * _SLOTS[purpose], int(ROW.fields["reasons"][1]) + _SLOTS[purpose]  # type: ignore[index]


def pack(standing: Mapping[Purpose, tuple[Sequence[Grant], Reason]], *, seq: int) -> bytes:
    """One person's projection. Of several grants only the last can be current or to come; older ones have ended."""
    row = np.zeros((), dtype=ROW)
    row["seq"] = seq
    for i, purpose in enumerate(_PURPOSES):
        found, reason = standing[purpose]
        if found:
            last = found[-1]
            row["grants"][i] = (_micros(last.start), _micros(last.end))
            reason = last.why_ended
        row["reasons"][i] = _REASONS.index(reason)
    return row.tobytes()


def write(
    client: redis.Redis,
    standings: Mapping[str, Mapping[Purpose, tuple[Sequence[Grant], Reason]]],
    *,
    seq: int,
    now: datetime,
    batch: int = 1_000,
) -> list[str]:
    """Write projections, and in the same atomic step delete the features of every purpose not granted at `now`, or anew.

    Returns those for whom what Redis holds was made at a later ledger position, and stays.
    """
    people, newer = list(standings.items()), list[str]()
    for at in range(0, len(people), batch):
        calls: list[lua.Call] = []
        for user_key, standing in people[at : at + batch]:
            features = [feature_keys(user_key, p) for p in _PURPOSES]
            keys = [consent_key(user_key), *(k for of_one in features for k in of_one), assignments_key(user_key)]
            each = len(features[0])
            assigned_for = 2 + each * _SLOTS[Purpose.FUNCTIONAL_SERVICE_IMPROVE]
            calls.append((keys, [pack(standing, seq=seq), _micros(now), _GRANTS_AT, each, assigned_for]))
        written = lua.run(client, _WRITE, calls)
        newer += [key for (key, _), done in zip(people[at : at + batch], written, strict=True) if not done]
    return newer


def position(blob: bytes | None) -> int:
    """The ledger position a projection was made at; 0 where there is none."""
    return int.from_bytes((blob or b"")[:8], "little", signed=True)


def unpack(blobs: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Projections as an array of `ROW`, and which were there and of the right shape; zeros, no grant at all, elsewhere."""
    held: Sequence[bytes] = blobs  # type: ignore[assignment]
    if None in blobs or set(map(len, held)) - {ROW.itemsize}:
        held = [b if b is not None and len(b) == ROW.itemsize else b"" for b in blobs]
        sound = np.array(list(map(bool, held)), dtype=bool)
        held = [b or _NOTHING for b in held]
    else:
        sound = np.ones(len(blobs), dtype=bool)
    return np.frombuffer(b"".join(held), ROW), sound


def decide(blobs: Sequence[bytes | None], purposes: Sequence[Purpose], *, now_micros: int) -> Decisions:
    """One decision a projection: of the first of `purposes` that is denied, else of the first of all."""
    return _decide(blobs, purposes, now_micros=now_micros)[0]


def _decide(
    blobs: Sequence[bytes | None], purposes: Sequence[Purpose], *, now_micros: int
) -> tuple[Decisions, np.ndarray]:
    """The decisions, and the projections they are from: int64 `[n, WORDS]`."""
    rows, sound = unpack(blobs)
    table = rows.view("<i8").reshape(len(blobs), WORDS)
    known = np.array([b is not None for b in blobs], dtype=bool)
    return judge(table, purposes, now_micros=now_micros, known=known, sound=sound), table


def judge(
    table: np.ndarray,
    purposes: Sequence[Purpose],
    *,
    now_micros: int,
    known: np.ndarray | None = None,
    sound: np.ndarray | None = None,
) -> Decisions:
    """One decision a row of `table`, int64 `[n, WORDS]`: projections, zeros where there is none.

    `known` says where there was a value at all, `sound` where it had the right shape; None: everywhere.
    """
    asked, now = tuple(purposes), np.array(now_micros)
    first, *others = _start_words(asked)
    yes = _granted(table, first, now)
    which: np.ndarray | None = None
    for place, start in enumerate(others, start=1):
        granted = _granted(table, start, now)
        which = np.zeros(len(table), dtype=np.intp) if which is None else which
        which[yes & ~granted] = place
        yes &= granted
    return Decisions(asked, table, allowed=yes, which=which, known=known, sound=sound)


@cache
def _start_words(purposes: tuple[Purpose, ...]) -> tuple[int, ...]:
    return tuple(map(start_word, purposes))


def _granted(table: np.ndarray, start: int, now: np.ndarray) -> np.ndarray:
    """Whether the grant beginning at word `start` holds; nobody's zeros do, for they end when they start.

    `now` is an array of no dimension: comparing with one takes half the time of comparing with a Python integer.
    """
    granted: np.ndarray = (table[:, start] <= now) & (now < table[:, start + 1])
    return granted


def decisions(blobs: Sequence[bytes | None], *, purpose: Purpose, now: datetime) -> list[Decision]:
    """One decision a projection; a missing one denies as NO_RECORD, a misshapen one as UNAVAILABLE."""
    return list(decide(blobs, [purpose], now_micros=_micros(now)))


def decisions_and_starts(
    blobs: Sequence[bytes | None], *, purpose: Purpose, now: datetime
) -> tuple[list[Decision], list[int]]:
    """The same, and when the grant that each projection holds of `purpose` began: microseconds since 1970, 0 for none."""
    made, table = _decide(blobs, [purpose], now_micros=_micros(now))
    starts: list[int] = table[:, start_word(purpose)].tolist()
    return list(made), starts


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
