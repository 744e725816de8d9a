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

from consent.policy import Decision, Grant, Reason, unavailable
from consent.purposes import Purpose, spec

__all__ = ["ROW", "consent_key", "decisions", "feature_keys", "pack", "slot", "write"]

_PURPOSES = tuple(Purpose)
_REASONS = tuple(Reason)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_GRANT = np.dtype([("start", "<i8"), ("end", "<i8"), ("reason", "<i8")])
ROW = np.dtype([("seq", "<i8"), ("grants", _GRANT, (len(_PURPOSES),))])
"""Layout of one projection: `seq`, then one (start, end, reason index) a purpose."""

# Newest wins: a slow writer never overwrites what a later ledger position said. KEYS: projection, then the feature keys of
# every purpose, three each, in enum order. ARGV: projection, now. What a purpose knew is deleted unless the grant it was
# learned under is still the one in force.
_WRITE = """
local held = redis.call('GET', KEYS[1])
if held and #held >= 8 and struct.unpack('<l', held) > struct.unpack('<l', ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
local now = tonumber(ARGV[2])
for i = 2, #KEYS, 3 do
  local at = 9 + 24 * ((i - 2) / 3)
  local start, finish = struct.unpack('<ll', ARGV[1], at)
  local same = held and #held >= at + 15 and struct.unpack('<l', held, at) == start
  if not (same and start <= now and now < finish) then redis.call('DEL', KEYS[i], KEYS[i + 1], KEYS[i + 2]) end
end
return 1
"""


def consent_key(user_key: str) -> str:
    """Where a person's projection is."""
    return f"{{u:{user_key}}}:c"


def feature_keys(user_key: str, purpose: Purpose) -> tuple[str, str, str]:
    """The packed row, the timetable and the folded state of one person for one purpose."""
    person = f"{{u:{user_key}}}"
    return f"{person}:f:{purpose}", f"{person}:s:{purpose}", f"{person}:l:{purpose}"


def slot(purpose: Purpose) -> int:
    """The place of `purpose` in `ROW["grants"]`."""
    return _PURPOSES.index(purpose)


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
    script = client.register_script(_WRITE)
    people = list(standings.items())
    for at in range(0, len(people), batch):
        with client.pipeline(transaction=False) as pipe:
            for user_key, standing in people[at : at + batch]:
                keys = [consent_key(user_key), *(k for p in _PURPOSES for k in feature_keys(user_key, p))]
                script(keys=keys, args=[pack(standing, seq=seq), _micros(now)], client=pipe)
            pipe.execute()


def unpack(blobs: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections as an array of `ROW`, with two masks: which were there, and which had the right shape."""
    size = ROW.itemsize
    there = np.fromiter((b is not None for b in blobs), dtype=bool, count=len(blobs))
    sound = np.fromiter((b is not None and len(b) == size for b in blobs), dtype=bool, count=len(blobs))
    empty = bytes(size)
    rows = np.frombuffer(
        b"".join(b if ok and b is not None else empty for b, ok in zip(blobs, sound, strict=True)), ROW
    )
    return rows, there, sound


def allowed(rows: np.ndarray, sound: np.ndarray, *, purpose: Purpose, now_micros: int) -> np.ndarray:
    """For each unpacked projection, whether `purpose` is granted at `now_micros` (microseconds): bool `[n]`."""
    granted = rows["grants"][:, slot(purpose)]
    return sound & (granted["start"] <= now_micros) & (now_micros < granted["end"])


def decisions(blobs: Sequence[bytes | None], *, purpose: Purpose, now: datetime) -> list[Decision]:
    """One decision a projection; a missing one denies as NO_RECORD, a misshapen one as UNAVAILABLE."""
    rows, there, sound = unpack(blobs)
    yes = allowed(rows, sound, purpose=purpose, now_micros=_micros(now))
    held = Reason.GRANTED if spec(purpose).needs_consent else Reason.LEGITIMATE_INTEREST
    seqs, why = rows["seq"].tolist(), rows["grants"]["reason"][:, slot(purpose)].tolist()
    made: list[Decision] = []
    for i in range(len(blobs)):
        if yes[i]:
            made.append(Decision(True, purpose, held, seqs[i]))
        elif not there[i]:
            made.append(Decision(False, purpose, Reason.NO_RECORD, -1))
        elif sound[i] and 0 <= why[i] < len(_REASONS):
            made.append(Decision(False, purpose, _REASONS[why[i]], seqs[i]))
        else:
            made.append(unavailable(purpose))
    return made


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
