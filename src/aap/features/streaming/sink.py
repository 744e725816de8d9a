"""Live rows: what a worker's memory says of people, under the consent in force, written into the online store.

A row says all there is to know of a person at its moment, so writing it again, or by another worker, changes nothing; the
newest wins. Of many people at once the numbers come first and the timetable of what will change by itself follows when
there is time, at the latest a minute before the first change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import redis

from aap.consent import redis_projection
from aap.consent.purposes import Purpose
from aap.features.online.row_codec import NEVER, header_of, stored_size
from aap.features.online.writer import OnlineRows, write_many
from aap.features.streaming.evaluate import PEOPLE, evaluate, pack
from aap.features.streaming.plan import LivePlan
from aap.features.streaming.state import Memory

__all__ = ["LiveRows"]

_FEW = 1_000
"""Of so many people numbers and timetables are written together."""
_SOON_US = 60_000_000
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Grants:
    """Of some people: start and end of each purpose's grant, int64 `[n, purposes]` microseconds since 1970."""

    start: np.ndarray
    end: np.ndarray
    sound: np.ndarray
    """Where Redis had them."""

    def of(self, purpose: Purpose, *, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Who has granted `purpose` at `at`, and since when."""
        place = redis_projection.slot(purpose)
        return (self.start[:, place] <= at) & (at < self.end[:, place]), self.start[:, place]


class LiveRows:
    """Writes the rows of one partition's people."""

    def __init__(self, client: redis.Redis, memory: Memory, plans: Mapping[Purpose, LivePlan]) -> None:
        self._redis, self._memory, self._plans = client, memory, plans
        self._until = {purpose: np.empty(0, np.int64) for purpose in plans}
        """Of each person, when the row that was written without a timetable stops holding."""

    def write(self, touched: Mapping[str, np.ndarray], *, at: int, ahead: bool = False) -> None:
        """Write the rows of people, by the event type that touched them, as of `at`; `ahead` with timetables at once."""
        everyone = np.unique(np.concatenate(list(touched.values())))
        grants = self._grants(everyone)
        for plan in self._plans.values():
            ours = [touched[event] for event in plan.events if event in touched]
            if ours:
                rows = np.unique(np.concatenate(ours))
                self._write(plan, rows, _some(grants, np.searchsorted(everyone, rows)), at=at, ahead=ahead)

    def renew(self, rows: np.ndarray, *, at: int) -> None:
        """Write all rows of these people, with timetables; who allows nothing any more is forgotten."""
        grants = self._grants(rows)
        allowed = ((grants.start <= at) & (at < grants.end)).any(axis=1)
        for row in rows[grants.sound & ~allowed].tolist():
            self._memory.forget(row)
        for plan in self._plans.values():
            self._write(plan, rows, grants, at=at, ahead=True)

    def catch_up(self, most: int, *, at: int, urgent: bool) -> int:
        """Write up to `most` rows with the timetables they lack, the most urgent first; returns how many.

        `urgent`: only those that stop holding within a minute.
        """
        done = 0
        for purpose, plan in self._plans.items():
            until = self._until[purpose]
            lacking = np.flatnonzero(until < (at + _SOON_US if urgent else NEVER))
            if len(lacking) and not done:
                rows = np.sort(lacking[np.argsort(until[lacking], kind="stable")[:most]])
                until[rows] = NEVER
                self._write(plan, rows, self._grants(rows), at=at, ahead=True)
                done = len(rows)
        return done

    def _write(
        self, plan: LivePlan, rows: np.ndarray, grants: _Grants, *, at: int, ahead: bool, attempts: int = _ATTEMPTS
    ) -> None:
        moments = np.maximum(self._memory.floor[rows], at)
        granted, starts = grants.of(plan.view.purpose, at=moments)
        rows, starts, moments = rows[granted], starts[granted], moments[granted]
        for moment in np.unique(moments).tolist():
            ours = moments == moment
            made = self._made(plan, rows[ours], starts[ours], at=moment, ahead=ahead or len(rows) <= _FEW)
            _, left_out = write_many(self._redis, plan.view, made)
            if left_out and attempts:
                again = self._behind(plan, rows[ours], starts[ours], at=moment)
                self._write(plan, again, self._grants(again), at=at, ahead=ahead, attempts=attempts - 1)

    def _made(
        self, plan: LivePlan, rows: np.ndarray, starts: np.ndarray, *, at: int, ahead: bool
    ) -> Iterator[OnlineRows]:
        keys, until = self._memory.keys, self._room(plan.view.purpose)
        for place in range(0, len(rows), PEOPLE):
            some, since = rows[place : place + PEOPLE], starts[place : place + PEOPLE]
            found = evaluate(self._memory, plan, some, starts=since, at=at, ahead=ahead)
            names = [keys[row] for row in some.tolist()]
            until[some] = NEVER
            if not ahead:
                without = found.valid_until < at + plan.view.time_to_live_us
                until[some[without]] = found.valid_until[without]
            yield pack(plan, names, found, starts=since, at=at, ahead=ahead)
            if not ahead and (soon := found.valid_until < at + _SOON_US).any():
                yield from self._made(plan, some[soon], since[soon], at=at, ahead=True)

    def _behind(self, plan: LivePlan, rows: np.ndarray, starts: np.ndarray, *, at: int) -> np.ndarray:
        """Whose row is to be made anew: their grant is another by now, or what is there is of a later moment, the clock
        having been set back.
        """
        purpose = plan.view.purpose
        keys = [redis_projection.feature_keys(self._memory.keys[row], purpose)[0] for row in rows.tolist()]
        blobs: Sequence[bytes | None] = self._redis.mget(keys)  # type: ignore[assignment]
        again = np.zeros(len(rows), dtype=bool)
        for i, blob in enumerate(blobs):
            if blob is not None and len(blob) >= stored_size(plan.view):
                header = header_of(plan.view, blob)
                if header["grant_start"] == starts[i] and header["as_of"] > at:
                    self._memory.floor[rows[i]], again[i] = header["as_of"], True
        granted, since = self._grants(rows).of(purpose, at=np.full(len(rows), at))
        return rows[again | (granted & (since != starts))]

    def _grants(self, rows: np.ndarray) -> _Grants:
        keys = self._memory.keys
        blobs: Sequence[bytes | None] = self._redis.mget([f"{{u:{keys[row]}}}:c" for row in rows.tolist()])  # type: ignore[assignment]
        held, sound = redis_projection.unpack(blobs)
        return _Grants(held["grants"]["start"], held["grants"]["end"], sound)

    def _room(self, purpose: Purpose) -> np.ndarray:
        until = self._until[purpose]
        if len(until) < len(self._memory.keys):
            grown = np.full(2 * len(self._memory.keys), NEVER)
            grown[: len(until)] = until
            self._until[purpose] = until = grown
        return until


def _some(grants: _Grants, places: np.ndarray) -> _Grants:
    return _Grants(grants.start[places], grants.end[places], grants.sound[places])
