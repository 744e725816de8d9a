"""Recomputing: the values of single rows as of what each could know, by the statements that build features.

Every row is an entity of its own to the change points: its person's admissible events that had been received by the
row's own moment. So rows of any number of moments take one pass, and nothing of how a value is computed is said twice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.features.declarations import DAY_US, Aggregate
from aap.features.engines.base import DuckDBBatch
from aap.features.offline.build import write_view
from aap.features.offline.change_points import event_table
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.store import Inputs
from aap.features.offline.writer import ValuesWriter
from aap.features.online.materialize import newest_values
from aap.features.views import View
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder
from aap.infra.timestamps import from_micros

__all__ = ["Questions", "recompute"]


@dataclass(frozen=True, slots=True)
class Questions:
    """Whose values are wanted, as known when, read when; all moments in microseconds, arrays of one length `[n]`."""

    user_keys: list[str]
    grant_start: np.ndarray
    known_until: np.ndarray
    """What had been received by then may count."""
    read_at: np.ndarray
    """The moment the values are of."""


def recompute(view: View, archive: Archive, asked: Questions) -> tuple[np.ndarray, list[list[list[str]]]]:
    """Values float64 `[n, n_numbers]` (times since a moment in days, NaN for null) and `[n]` times the view's lists.

    A row that was read before what it knows, by a clock set back, holds what it knows.
    """
    if not asked.user_keys:
        return np.empty((0, len(view.numbers))), []
    who = np.array(asked.user_keys, dtype=object)
    known, of_row = _distinct(who, asked.grant_start, asked.known_until)
    with open_duckdb() as connection, tempfile.TemporaryDirectory() as folder:
        batch, place = DuckDBBatch(connection), Folder.at(folder)
        _admit(batch, view, archive, known)
        lists = newest_values(connection, view)
        writer = ValuesWriter(view, folder=place)
        write_view(batch, writer, view, scratch=place / "scratch")
        built = writer.finish(Inputs(from_micros(int(asked.known_until.max()))))
        keys = pa.array(of_row.astype(str), pa.string())
        moments = np.maximum(asked.read_at, asked.known_until)
        values, _, _ = point_in_time_join(built, keys=keys, moments=moments, features=view.names)
    since = np.array(view.since, dtype=bool)
    ahead = (moments - asked.read_at)[:, None] / DAY_US
    values[:, since] = np.maximum(values[:, since] - ahead, 0.0)
    none: list[list[str]] = [[] for _ in view.sequences]
    return values, [lists.get(key, none) for key in of_row.astype(str).tolist()]


def _distinct(who: np.ndarray, start: np.ndarray, until: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """`k`, `user_key`, `start`, `until` of each distinct piece of knowledge, and which one each row has."""
    _, first, of_row = np.unique(
        np.array(
            list(zip(who, start.tolist(), until.tolist(), strict=True)), dtype=[("w", "U32"), ("s", "i8"), ("u", "i8")]
        ),
        return_index=True,
        return_inverse=True,
    )
    known = pa.table(
        {
            "k": pa.array(np.arange(len(first)).astype(str), pa.string()),
            "user_key": pa.array(who[first].tolist(), pa.string()),
            "start": pa.array(start[first], pa.int64()),
            "until": pa.array(until[first], pa.int64()),
        }
    )
    return known, of_row


def _admit(batch: DuckDBBatch, view: View, archive: Archive, known: pa.Table) -> None:
    """The tables `build.admit_events` makes, with each row of `known` as an entity."""
    batch.register("known", known)
    batch.make("spans", "SELECT k, start FROM known")
    for event in sorted({f.event for f in view.features if isinstance(f, Aggregate)}):
        fields = ", ".join(f"e.{f.name}" for f in event_type(event).fields)
        batch.make(
            event_table(event),
            "SELECT known.k, e.user_key, epoch_us(e.occurred_at) AS o, epoch_us(e.available_at) AS a, "
            f"hour(e.occurred_at) AS hour, {batch.dialect.weekday('e.occurred_at')} AS weekday, {fields}, e.source, e.id "
            f"FROM {batch.events(archive, event)} e JOIN known ON known.user_key = e.user_key "
            "AND epoch_us(e.occurred_at) BETWEEN known.start AND known.until AND epoch_us(e.available_at) <= known.until",
        )
