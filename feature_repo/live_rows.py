"""Live rows: a person's folded state in Redis, `{u:KEY}:l:PURPOSE`, and the packed row that is written with it.

State and row change in one atomic step that looks at the consent and at the state it was folded from: a worker that lost
its place, and a write that is repeated, change nothing. The state says which entry of the log it took last, so an event
delivered again has no second effect. Past a row's `valid_until` the reader evaluates the state.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import redis

from consent import projection
from consent.purposes import Purpose
from feature_repo.fold import State, prune, sequences, settle, values_at
from feature_repo.fold_plan import Plan, plan_for, plan_of
from feature_repo.views import View

__all__ = [
    "FIRST",
    "Held",
    "LiveRow",
    "Position",
    "evaluate",
    "generation",
    "next_generation",
    "open_state",
    "pack",
    "refresh",
    "state_key",
    "write",
]

Position = tuple[int, int]
"""A place in one partition of the log: the two halves of a stream entry's id."""

FIRST: Position = (0, 0)
"""Before every entry."""

_HEADER = struct.Struct("<IIqqq")  # declarations, generation, start of the grant, last entry taken (two)
_GENERATION = "live:generation"
_GRANT = struct.Struct("<qq")
_ROW = struct.Struct("<IIqqqq")  # `packed.HEADER`

# Of each person KEYS: consent, row, timetable, state. ARGV: offset of the grant in the projection; then of each person: row,
# state, and what must still be there: start and end of the grant, then the head of the state that this one was folded from.
_WRITE = """
local done, at = {}, tonumber(ARGV[1])
for i = 1, #KEYS / 4 do
  local k, a = 4 * i - 3, 3 * i - 1
  local there = redis.call('GETRANGE', KEYS[k], at, at + 15) .. redis.call('GETRANGE', KEYS[k + 3], 0, 31)
  if there == ARGV[a + 2] then
    redis.call('SET', KEYS[k + 1], ARGV[a])
    redis.call('SET', KEYS[k + 3], ARGV[a + 1])
    redis.call('DEL', KEYS[k + 2])
    done[i] = 1
  else
    done[i] = 0
  end
end
return done
"""
_BATCH = 1_000
_TOGETHER = 50
"""People written by one script call, each atomically; in a cluster one, since people are on different nodes."""


@dataclass(frozen=True, slots=True)
class Held:
    """A state as it was found in Redis."""

    head: bytes
    """Its first bytes; empty where there was none."""
    position: Position
    state: State | None
    """None where there is none to go on from: none at all, or of other declarations or another grant."""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One person's row and state for one purpose, ready to be written in place of what `head` begins."""

    user_key: str
    row: bytes
    state: bytes
    as_of: int
    grant: tuple[int, int]
    """Start and end of the grant that it was folded under."""
    head: bytes


def generation(client: redis.Redis) -> int:
    """Which import the states must have seen: one made before it lacks what was imported, and is made anew."""
    return int(client.get(_GENERATION) or 0) % 2**32  # type: ignore[arg-type]


def next_generation(client: redis.Redis) -> None:
    """The archive has got events that never were in the log: every state is to be made from it again when next needed."""
    client.incr(_GENERATION)


def state_key(user_key: str, purpose: Purpose) -> str:
    """Where a person's folded state is."""
    return f"{{u:{user_key}}}:l:{purpose}"


def open_state(plan: Plan, blob: bytes | None, *, grant_start: int, generation: int | None = None) -> Held:
    """What Redis held under a state key, to be folded on under the grant in force; of any generation where none is given."""
    if blob is None or len(blob) < _HEADER.size:
        return Held(blob or b"", FIRST, None)
    head = blob[: _HEADER.size]
    fingerprint, made_in, start, first, second = _HEADER.unpack(head)
    if (fingerprint, start) != (plan.fingerprint, grant_start) or generation not in (None, made_in):
        return Held(head, FIRST, None)
    try:
        return Held(head, (first, second), msgspec.msgpack.decode(blob[_HEADER.size :], type=State))
    except msgspec.DecodeError:
        return Held(head, FIRST, None)


def pack(
    plan: Plan,
    state: State,
    *,
    user_key: str,
    grant: tuple[int, int],
    generation: int,
    position: Position,
    head: bytes,
) -> LiveRow:
    """The row that holds at `state.as_of`, and the state, which took everything up to `position`."""
    at, held = state.as_of, values_at(plan, state)
    expires = at + plan.time_to_live_us
    row = _ROW.pack(plan.fingerprint, len(held.numbers), at, held.valid_until, expires, grant[0])
    row += array("d", held.numbers).tobytes()
    if plan.lists:
        row += msgspec.msgpack.encode(sequences(plan, state))
    kept = _HEADER.pack(plan.fingerprint, generation, grant[0], *position) + msgspec.msgpack.encode(state)
    return LiveRow(user_key, row, kept, at, grant, head)


def write(client: redis.Redis, plan: Plan, rows: Sequence[LiveRow]) -> list[bool]:
    """Write `rows`; for each, whether it was. False: consent has changed, or somebody else wrote the state meanwhile."""
    script = client.register_script(_WRITE)
    purpose = plan.view.purpose
    offset = projection.ROW.fields["grants"][1] + 24 * projection.slot(purpose)  # type: ignore[index]
    together = 1 if isinstance(client, redis.RedisCluster) else _TOGETHER
    with client.pipeline(transaction=False) as pipe:
        for at in range(0, len(rows), together):
            keys: list[str] = []
            args: list[bytes | int] = [offset]
            for row in rows[at : at + together]:
                keys += (projection.consent_key(row.user_key), *projection.feature_keys(row.user_key, purpose))
                args += (row.row, row.state, _GRANT.pack(*row.grant) + row.head)
            script(keys=keys, args=args, client=pipe)
        return [done == 1 for answer in pipe.execute() for done in answer]


def evaluate(
    view: View, blob: bytes | None, *, grant_start: int, now: int
) -> tuple[np.ndarray, list[list[str]]] | None:
    """Numbers and sequences at `now` from a state as Redis held it; None where it can't be gone by."""
    plan = _plan(view)
    state = open_state(plan, blob, grant_start=grant_start).state
    if state is None:
        return None
    settle(plan, state, now=now)
    return np.array(values_at(plan, state).numbers), sequences(plan, state)


def refresh(client: redis.Redis, plan: Plan, user_keys: Sequence[str], *, now: int) -> int:
    """Write the rows of people with a state anew, as of `now`, so that they stay readable; returns how many."""
    done, current = 0, generation(client)
    purpose = plan.view.purpose
    for at in range(0, len(user_keys), _BATCH):
        some = user_keys[at : at + _BATCH]
        asked = [projection.consent_key(k) for k in some] + [state_key(k, purpose) for k in some]
        blobs: list[bytes | None] = client.mget(asked)  # type: ignore[assignment]
        grants = projection.unpack(blobs[: len(some)])[0]["grants"][:, projection.slot(purpose)]
        rows = []
        for key, start, end, blob in zip(
            some, grants["start"].tolist(), grants["end"].tolist(), blobs[len(some) :], strict=True
        ):
            held = open_state(plan, blob, grant_start=start, generation=current)
            if held.state is not None and now < end:
                settle(plan, held.state, now=now)
                prune(plan, held.state)
                rows.append(
                    pack(
                        plan, held.state, user_key=key, grant=(start, end), generation=current,
                        position=held.position, head=held.head,
                    )
                )  # fmt: skip
        done += sum(write(client, plan, rows))
    return done


def _plan(view: View) -> Plan:
    declared = plan_for(view.purpose)
    return declared if declared.view is view else plan_of(view)
