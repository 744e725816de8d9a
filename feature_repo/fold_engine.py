"""The stream engine, as verification sees it: each person's events folded one by one, in the order they became available."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np

from events.logged import LoggedEvent
from events.schema import event_type
from feature_repo.batch import DuckDBBatch
from feature_repo.build import admit_events, current_spans
from feature_repo.change_points import event_table
from feature_repo.declare import Aggregate
from feature_repo.fold import fold, new_state, prune, settle, values_at
from feature_repo.fold_plan import plan_of
from feature_repo.sample import Sample
from feature_repo.views import View

__all__ = ["FoldValues"]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class FoldValues:
    """See `verify.ValuesAt`."""

    name: str = "stream"

    def values(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Values float64 `[n, n_numbers]` and `found` bool `[n]`; a person is found from the start of their grant on."""
        events = _events(sample)
        spans = current_spans(sample.standing, sample.view.purpose, as_of=sample.as_of)
        starts = dict(zip(spans["k"].to_pylist(), spans["start"].to_pylist(), strict=True))
        values = np.full((len(sample.keys), len(sample.view.numbers)), np.nan)
        keys = np.array(sample.keys, dtype=object)
        for key in sorted(set(sample.keys)):
            places = np.flatnonzero(keys == key)
            places = places[np.argsort(sample.moments[places], kind="stable")]
            values[places] = _walk(sample.view, events.get(key, []), sample.moments[places])
        found = sample.moments >= np.array([starts.get(k, np.iinfo(np.int64).max) for k in sample.keys])
        values[~found] = np.nan
        return values, found


def _walk(view: View, events: list[LoggedEvent], moments: np.ndarray) -> np.ndarray:
    """One person's values at `moments` (ascending), from `events` in the order they became available."""
    plan, since = plan_of(view), np.array(view.since, dtype=bool)
    state, place, rows = new_state(plan), 0, []
    for t in moments.tolist():
        while place < len(events) and events[place].available_at <= t:
            event = events[place]
            settle(plan, state, now=event.available_at)
            fold(plan, state, event, now=event.available_at)
            prune(plan, state)
            place += 1
        settle(plan, state, now=t)
        row = np.array(values_at(plan, state).numbers)
        row[since] = (t - row[since]) / _DAY_US
        rows.append(row)
    return np.vstack(rows)


def _events(sample: Sample) -> dict[str, list[LoggedEvent]]:
    """Each person's admissible events in the order they became available."""
    found: dict[str, list[LoggedEvent]] = {}
    with duckdb.connect() as connection:
        batch = DuckDBBatch(connection)
        admit_events(batch, sample.view, archive=sample.archive, standing=sample.standing, as_of=sample.as_of)
        for event in sorted({f.event for f in sample.view.features if isinstance(f, Aggregate)}):
            names = [f.name for f in event_type(event).fields]
            rows = connection.execute(
                f"SELECT k, o, a, source, id, {', '.join(names)} FROM {event_table(event)}"
            ).fetchall()
            for key, occurred, available, source, name, *fields in rows:
                told = dict(zip(names, fields, strict=True))
                found.setdefault(key, []).append(LoggedEvent(source, name, event, key, occurred, available, told))
    for held in found.values():
        held.sort(key=lambda e: (e.available_at, e.source, e.id))
    return found
