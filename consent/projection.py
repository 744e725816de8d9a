"""The projection: each person's current grants, kept in Redis beside their features so that every read can obey them.

One key a person, `{u:KEY}:c`, of fixed size: the ledger position it was made at, then for every purpose, in enum order,
the current grant's start and end (microseconds since 1970) and the reason that holds outside of it. A batch of people
is one `MGET` and one numpy view. A missing or misshapen value denies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import redis

from consent.decisions import Decisions
from consent.policy import FOREVER, Decision, Grant, Reason
from consent.purposes import Purpose
from storage import scripts

__all__ = [
    "ROW",
    "RUNNING",
    "assignments_key",
    "consent_key",
    "decide",
    "decisions",
    "feature_keys",
    "pack",
    "slot",
    "unpack",
    "write",
]

_PURPOSES = tuple(Purpose)
_SLOTS = {purpose: place for place, purpose in enumerate(_PURPOSES)}
_REASONS = tuple(Reason)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_GRANT = np.dtype([("start", "<i8"), ("end", "<i8"), ("reason", "<i8")])
ROW = np.dtype([("seq", "<i8"), ("grants", _GRANT, (len(_PURPOSES),))])
"""Layout of one projection: `seq`, then one (start, end, reason index) a purpose."""

_NOTHING = bytes(ROW.itemsize)

_ASSIGNED_FOR = 2 + 2 * _SLOTS[Purpose.FUNCTIONAL_SERVICE_IMPROVE]

RUNNING = (_REASONS.index(Reason.EXPIRED), (FOREVER - _EPOCH) // timedelta(microseconds=1))
"""A grant that nobody has ended either runs out by itself (this reason) or never (this end)."""

# Newest wins: a slow writer never overwrites what a later ledger position said. KEYS: projection, then the feature keys of
# every purpose, two each, in enum order, then the assignments. ARGV: projection, now, the place among KEYS of the purpose
# that assignments are made for. What a purpose knew is deleted unless the grant it was learned under is still in force.
_WRITE = """
local held = redis.call('GET', KEYS[1])
if held and #held >= 8 and struct.unpack('<l', held) > struct.unpack('<l', ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
local now = tonumber(ARGV[2])
for i = 2, #KEYS - 1, 2 do
  local at = 9 + 24 * (i / 2 - 1)
  local start, finish = struct.unpack('<ll', ARGV[1], at)
  local same = held and #held >= at + 15 and struct.unpack('<l', held, at) == start
  if not (same and start <= now and now < finish) then
    redis.call('DEL', KEYS[i], KEYS[i + 1])
    if i == tonumber(ARGV[3]) then redis.call('DEL', KEYS[#KEYS]) end
  end
end
return 1
"""


def consent_key(user_key: str) -> str:
    """Where a person's projection is."""
    return f"{{u:{user_key}}}:c"


def feature_keys(user_key: str, purpose: Purpose) -> tuple[str, str]:
    """The packed row and the stream state of one person for one purpose."""
    return f"{{u:{user_key}}}:f:{purpose}", f"{{u:{user_key}}}:s:{purpose}"


def assignments_key(user_key: str) -> str:
    """Which variants of experiments one person was assigned, all under the purpose `functional.service.improve`."""
    return f"{{u:{user_key}}}:x"


def slot(purpose: Purpose) -> int:
    """The place of `purpose` in `ROW["grants"]`."""
    return _SLOTS[purpose]


def pack(standing: Mapping[Purpose, tuple[Sequence[Grant], Reason]], *, seq: int) -> bytes:
    """One person's projection. Of several grants only the last can be current or to come; older ones have ended."""
    row = np.zeros((), dtype=ROW)
    row["seq"] = seq
    for i, purpose in enumerate(_PURPOSES):
        found, reason = standing[purpose]
        if found:
            last = found[-1]
            row["grants"][i] = (_micros(last.start), _micros(last.end), _REASONS.index(last.why_ended))
        else:
            row["grants"][i] = (0, 0, _REASONS.index(reason))
    return row.tobytes()


def write(
    client: redis.Redis,
    standings: Mapping[str, Mapping[Purpose, tuple[Sequence[Grant], Reason]]],
    *,
    seq: int,
    now: datetime,
    batch: int = 1_000,
) -> None:
    """Write projections, and in the same atomic step delete the features of every purpose not granted at `now`, or anew."""
    people = list(standings.items())
    for at in range(0, len(people), batch):
        calls: list[scripts.Call] = []
        for user_key, standing in people[at : at + batch]:
            keys = [consent_key(user_key), *(k for p in _PURPOSES for k in feature_keys(user_key, p))]
            calls.append(([*keys, assignments_key(user_key)], [pack(standing, seq=seq), _micros(now), _ASSIGNED_FOR]))
        scripts.run(client, _WRITE, calls)


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


def decide(
    blobs: Sequence[bytes | None], purposes: Sequence[Purpose], *, now_micros: int
) -> tuple[Decisions, np.ndarray]:
    """One decision a projection: of the first of `purposes` that is denied, else of the first of all; and the
    projections as `int64 [n, 1 + 3 × purposes]`, zeros where there is no sound one.
    """
    rows, sound = unpack(blobs)
    table = rows.view("<i8").reshape(len(blobs), ROW.itemsize // 8)
    yes = _granted(table, purposes[0], now_micros=now_micros)
    which: np.ndarray | None = None
    for place, purpose in enumerate(purposes[1:], start=1):
        granted = _granted(table, purpose, now_micros=now_micros)
        which = np.zeros(len(blobs), dtype=np.intp) if which is None else which
        which[yes & ~granted] = place
        yes &= granted
    return Decisions(tuple(purposes), table, blobs, sound=sound, allowed=yes, which=which), table


def _granted(table: np.ndarray, purpose: Purpose, *, now_micros: int) -> np.ndarray:
    """Whether `purpose` is granted; nobody's zeros are, for they end when they start."""
    start = 1 + 3 * slot(purpose)
    granted: np.ndarray = (table[:, start] <= now_micros) & (now_micros < table[:, start + 1])
    return granted


def decisions(blobs: Sequence[bytes | None], *, purpose: Purpose, now: datetime) -> list[Decision]:
    """One decision a projection; a missing one denies as NO_RECORD, a misshapen one as UNAVAILABLE."""
    return list(decide(blobs, [purpose], now_micros=_micros(now))[0])


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
