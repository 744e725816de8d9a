"""Folding a micro-batch: from entries of one partition of the log to rows in Redis.

Of each person and purpose the state is fetched, moved on by the person's events in the order of the log, and written
with its row. What couldn't be written because consent or state changed meanwhile is fetched and folded again. A person
who has no state yet gets one from the archive first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import redis

from consent import projection
from consent.purposes import Purpose
from events.log import LoggedEvent
from feature_repo.declare import DAY_US, Entity
from feature_repo.fold import State, fold, new_state, prune, settle
from feature_repo.fold_plan import Plan, plan_for
from feature_repo.history import History
from feature_repo.live_rows import Held, LiveRow, Position, open_state, pack, state_key, write
from feature_repo.views import all_views

__all__ = ["Entry", "LiveFold", "live_plans"]

_REMEMBERED_US = 34 * DAY_US
"""The log recognises what it was sent within 35 days; an event older than this when it came is looked up in the archive."""

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One event and its place in its partition."""

    position: Position
    event: LoggedEvent


def live_plans() -> dict[Purpose, Plan]:
    """The plans of every declared view of people."""
    return {v.purpose: plan_for(v.purpose) for v in all_views() if v.entity is Entity.USER}


class LiveFold:
    """Folds batches into the states and rows of people. `history` must know who the archive knew when it was made."""

    def __init__(self, client: redis.Redis, history: History, *, plans: Mapping[Purpose, Plan] | None = None) -> None:
        self._redis, self._history = client, history
        self._plans = dict(live_plans() if plans is None else plans)

    def take(self, entries: Sequence[Entry], *, now: int, pending: Callable[[], set[tuple[str, str]]] = set) -> None:
        """Give `entries` (of one partition, in order) their effect, as of `now` (microseconds).

        `pending()` names the events, (source, id), that are in the log from the first entry on: though the archive may
        have them already, they have had no effect here. Asked only when a state is made from the archive.
        """
        by_person: dict[str, list[Entry]] = defaultdict(list)
        known = self._known_before(entries)
        for entry in entries:
            if (entry.event.source, entry.event.id) not in known:
                by_person[entry.event.user_key].append(entry)
        for purpose, plan in self._plans.items():
            mine = {
                key: found
                for key, all_of in by_person.items()
                if (found := [e for e in all_of if e.event.type in plan.events])
            }
            for _ in range(_ATTEMPTS):
                if not mine:
                    break
                mine = self._fold(purpose, plan, mine, now=now, pending=pending)
            else:
                raise redis.RedisError(f"The live states for {purpose} keep changing; another worker folds them.")

    def _known_before(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        old = [e.event for e in entries if e.event.available_at - e.event.occurred_at > _REMEMBERED_US]
        return self._history.known_before(old) if old else set()

    def _fold(
        self, purpose: Purpose, plan: Plan, people: dict[str, list[Entry]], *, now: int,
        pending: Callable[[], set[tuple[str, str]]],
    ) -> dict[str, list[Entry]]:  # fmt: skip
        """Fold and write once; returns the people whose row could not be written."""
        keys = list(people)
        starts, blobs = self._fetch(purpose, keys, now=now)
        self._history.add(key for key, start in zip(keys, starts, strict=True) if start is None)
        held = {
            key: (start, open_state(plan, blob, grant_start=start))
            for key, start, blob in zip(keys, starts, blobs, strict=True)
            if start is not None
        }
        fresh = [key for key, (_, found) in held.items() if found.state is None]
        past = self._history.of(fresh)
        waiting = pending() if past else set()
        rows: list[LiveRow] = []
        for key, (start, found) in held.items():
            before = [e for e in past.get(key, ()) if (e.source, e.id) not in waiting]
            row = _folded(plan, found, people[key], before, key=key, start=start, now=now)
            if row is not None:
                rows.append(row)
        done = write(self._redis, plan, rows)
        return {row.user_key: people[row.user_key] for row, ok in zip(rows, done, strict=True) if not ok}

    def _fetch(self, purpose: Purpose, keys: Sequence[str], *, now: int) -> tuple[list[int | None], list[bytes | None]]:
        """Of each person: since when the purpose is granted without a break (None: it isn't), and the state's bytes."""
        asked = [projection.consent_key(k) for k in keys] + [state_key(k, purpose) for k in keys]
        blobs: list[bytes | None] = self._redis.mget(asked)  # type: ignore[assignment]
        rows, _, sound = projection.unpack(blobs[: len(keys)])
        granted = projection.allowed(rows, sound, purpose=purpose, now_micros=now)
        starts = np.where(granted, rows["grants"]["start"][:, projection.slot(purpose)], -1).tolist()
        return [None if start < 0 else start for start in starts], blobs[len(keys) :]


def _folded(
    plan: Plan, held: Held, entries: Sequence[Entry], before: Sequence[LoggedEvent], *, key: str, start: int, now: int
) -> LiveRow | None:
    """One person's row after `before` (the archive's) and `entries`; None where all of them had their effect before."""
    state: State = new_state(plan) if held.state is None else held.state
    new = [e for e in entries if e.position > held.position]
    if not new:
        return None
    settle(plan, state, now=now)
    for event in (*before, *(e.event for e in new)):
        if event.occurred_at >= start:
            fold(plan, state, event, now=state.as_of)
    prune(plan, state)
    return pack(plan, state, user_key=key, grant_start=start, position=new[-1].position, head=held.head)
