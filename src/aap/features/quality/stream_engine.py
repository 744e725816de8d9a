"""The stream engine, as verification sees it: what a live worker would have known and told at each moment asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aap.events.schema import event_type
from aap.events.streaming.columns import LoggedEvent, by_type
from aap.features.declarations import DAY_US, Aggregate
from aap.features.engines.base import DuckDBBatch
from aap.features.offline.build import admit_events, current_spans
from aap.features.offline.change_points import event_table
from aap.features.quality.sample import Sample
from aap.features.streaming.evaluate import PEOPLE, evaluate
from aap.features.streaming.plan import LivePlan, TypeLayout, plan_view
from aap.features.streaming.state import Memory
from aap.infra.duckdb import open_duckdb

__all__ = ["LiveMemoryValues"]


@dataclass(frozen=True, slots=True)
class LiveMemoryValues:
    """See `verify.ValuesAt`."""

    name: str = "stream"

    def values(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Values float64 `[n, n_numbers]` and `found` bool `[n]`; a person is found from the start of their grant on."""
        layouts: dict[str, TypeLayout] = {}
        plan = plan_view(sample.view, layouts)
        memory, events = Memory(layouts), _events(sample)
        rows = memory.rows_of(sample.keys)
        spans = current_spans(sample.standing, sample.view.purpose, as_of=sample.as_of)
        started = dict(zip(spans["k"].to_pylist(), spans["start"].to_pylist(), strict=True))
        starts = np.array([started.get(key, np.iinfo(np.int64).max) for key in sample.keys])
        found = sample.moments >= starts
        values = np.full((len(rows), len(sample.view.numbers)), np.nan)
        for places in _rounds(rows, sample.moments):
            _deliver(memory, events, [sample.keys[i] for i in places], sample.moments[places])
            asked = places[found[places]]
            for at in range(0, len(asked), PEOPLE):
                some = asked[at : at + PEOPLE]
                values[some] = _told(memory, plan, rows[some], starts[some], sample.moments[some])
        return values, found


def _rounds(rows: np.ndarray, moments: np.ndarray) -> list[np.ndarray]:
    """The questions in rounds: one a person in each, their earliest in the first."""
    order = np.lexsort((moments, rows))
    first = np.searchsorted(rows[order], rows[order], side="left")
    turn = np.arange(len(order)) - first
    return [order[turn == i] for i in range(int(turn.max(initial=-1)) + 1)]


def _deliver(memory: Memory, events: dict[str, list[LoggedEvent]], keys: list[str], moments: np.ndarray) -> None:
    """What has come to count of each person by their moment; it is taken out of `events`."""
    due: list[LoggedEvent] = []
    for key, moment in zip(keys, moments.tolist(), strict=True):
        held = events.get(key, [])
        count = sum(max(e.available_at, e.occurred_at) <= moment for e in held)
        due += held[:count]
        del held[:count]
    for columns in by_type(due):
        memory.add(columns)


def _told(memory: Memory, plan: LivePlan, rows: np.ndarray, starts: np.ndarray, moments: np.ndarray) -> np.ndarray:
    numbers = evaluate(memory, plan, rows, starts=starts, at=moments, ahead=False).numbers
    since = plan.view.since_places
    numbers[:, since] = (moments[:, None] - numbers[:, since]) / DAY_US
    return numbers


def _events(sample: Sample) -> dict[str, list[LoggedEvent]]:
    """Each person's admissible events, in the order they come to count."""
    found: dict[str, list[LoggedEvent]] = {}
    with open_duckdb() as connection:
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
        held.sort(key=lambda e: (max(e.available_at, e.occurred_at), e.source, e.id))
    return found
