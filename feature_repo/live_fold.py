"""Folding a micro-batch: from entries of one partition of the log to rows in Redis.

Of each person and purpose the state is fetched, moved on by the person's events in the order of the log, and written
with its row. What couldn't be written because consent or state changed meanwhile is fetched and folded again. A person
who has no state yet gets one from the archive first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import redis

from consent import projection
from consent.purposes import Purpose
from events.log import LoggedEvent
from feature_repo.declare import DAY_US, Entity
from feature_repo.fold import State, fold, new_state, prune, settle
from feature_repo.fold_plan import Plan, plan_for
from feature_repo.history import History
from feature_repo.live_rows import Held, LiveRow, Position, generation, open_state, pack, state_key, write
from feature_repo.views import all_views

__all__ = ["Alone", "Around", "Entry", "LiveFold", "live_plans"]

_REMEMBERED_US = 34 * DAY_US
"""The log recognises what it was sent within 35 days; an event older than this when it came is looked up in the archive."""

_ATTEMPTS = 20


class Around(Protocol):
    """What of a batch's partition is in the log around it; looked at only when a state is made from the archive."""

    def earlier(self) -> list[LoggedEvent]:
        """Events before the batch: they had their effect on states, but may not be archived."""

    def to_come(self) -> set[tuple[str, str]]:
        """(source, id) of the batch's events and later ones that may be archived already: they had no effect yet."""


@dataclass(frozen=True, slots=True)
class Alone:
    """There is nothing around the batch."""

    def earlier(self) -> list[LoggedEvent]:
        """See `Around`."""
        return []

    def to_come(self) -> set[tuple[str, str]]:
        """See `Around`."""
        return set()


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

    def take(self, entries: Sequence[Entry], *, clock: Callable[[], int], around: Around | None = None) -> None:
        """Give `entries` (of one partition, in order) their effect, as of `clock()` (microseconds)."""
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
                mine = self._fold(purpose, plan, mine, now=clock(), around=around or Alone())
            else:
                raise redis.RedisError(f"The live states for {purpose} keep changing; another worker folds them.")

    def _known_before(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        old = [e.event for e in entries if e.event.available_at - e.event.occurred_at > _REMEMBERED_US]
        return self._history.known_before(old) if old else set()

    def _fold(
        self, purpose: Purpose, plan: Plan, people: dict[str, list[Entry]], *, now: int, around: Around
    ) -> dict[str, list[Entry]]:
        """Fold and write once; returns the people whose row could not be written."""
        keys, current = list(people), generation(self._redis)
        grants, blobs = self._fetch(purpose, keys, now=now)
        self._history.add([key for key, grant in zip(keys, grants, strict=True) if grant is None], purpose=purpose)
        held = {
            key: (grant, open_state(plan, blob, grant_start=grant[0], generation=current))
            for key, grant, blob in zip(keys, grants, blobs, strict=True)
            if grant is not None
        }
        self._history.add([k for k, (_, found) in held.items() if found.head and found.state is None], purpose=purpose)
        fresh = [key for key, (_, found) in held.items() if found.state is None]
        past = self._past(self._history.known(fresh, purpose=purpose), around)
        rows: list[LiveRow] = []
        for key, (grant, found) in held.items():
            new = [e for e in people[key] if e.position > found.position]
            if new:
                state = _moved_on(plan, found, [*past.get(key, ()), *(e.event for e in new)], start=grant[0], now=now)
                rows.append(
                    pack(
                        plan, state, user_key=key, grant=grant, generation=current,
                        position=new[-1].position, head=found.head,
                    )
                )  # fmt: skip
        done = write(self._redis, plan, rows)
        return {row.user_key: people[row.user_key] for row, ok in zip(rows, done, strict=True) if not ok}

    def _past(self, fresh: Sequence[str], around: Around) -> dict[str, list[LoggedEvent]]:
        """What people without a state did before the batch, from the archive and from the log before it is archived.

        The log is looked at before the archive for what is earlier and after it for what is to come, so that an event
        archived meanwhile is neither missed nor counted twice.
        """
        if not fresh:
            return {}
        wanted = set(fresh)
        earlier = [e for e in around.earlier() if e.user_key in wanted]
        found = self._history.of(fresh)
        to_come = around.to_come()
        seen = to_come | {(e.source, e.id) for events in found.values() for e in events}
        kept = {key: [e for e in events if (e.source, e.id) not in to_come] for key, events in found.items()}
        for event in earlier:
            if (event.source, event.id) not in seen:
                seen.add((event.source, event.id))
                kept.setdefault(event.user_key, []).append(event)
        return kept

    def _fetch(
        self, purpose: Purpose, keys: Sequence[str], *, now: int
    ) -> tuple[list[tuple[int, int] | None], list[bytes | None]]:
        """Of each person: start and end of the grant in force (None: there is none), and the state's bytes."""
        asked = [projection.consent_key(k) for k in keys] + [state_key(k, purpose) for k in keys]
        blobs: list[bytes | None] = self._redis.mget(asked)  # type: ignore[assignment]
        rows, _, sound = projection.unpack(blobs[: len(keys)])
        granted = projection.allowed(rows, sound, purpose=purpose, now_micros=now)
        there = rows["grants"][:, projection.slot(purpose)]
        grants = zip(granted.tolist(), there["start"].tolist(), there["end"].tolist(), strict=True)
        return [(start, end) if ok else None for ok, start, end in grants], blobs[len(keys) :]


def _moved_on(plan: Plan, held: Held, events: Iterable[LoggedEvent], *, start: int, now: int) -> State:
    """The state after those of `events` that the grant covers."""
    state = new_state(plan) if held.state is None else held.state
    settle(plan, state, now=now)
    for event in events:
        if event.occurred_at >= start:
            fold(plan, state, event, now=state.as_of)
    prune(plan, state)
    return state
