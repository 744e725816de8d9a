"""The latest values of a view, from its Parquet file to packed rows: what materialization writes.

For each person: the row that holds at `as_of`, when it will next change by itself, the timetable of those changes for as
long as the row may be read, and the view's sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events.archive import Archive
from feature_repo.batch import DuckDBBatch
from feature_repo.build import Standing, admit_events, current_spans
from feature_repo.change_points import event_table
from feature_repo.declare import Entity
from feature_repo.offline_values import built_view
from feature_repo.online import OnlineRow, to_micros
from feature_repo.packed import NEVER, changes, pack_rows, pack_sequences, pack_timetables
from feature_repo.views import View
from storage.folder import Folder

__all__ = ["latest_items", "latest_rows", "sequences_at"]


def latest_rows(
    view: View, *, folder: Folder, archive: Archive, standing: Standing, as_of: datetime
) -> Iterator[OnlineRow]:
    """One row for each person whose grant is in force at `as_of` and was when the view was built."""
    at = to_micros(as_of)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        spans = current_spans(standing, view.purpose, as_of=as_of)
        connection.register("granted", spans)
        keys, moments, starts, values = _changes(connection, view, folder=folder, at=at)
        lists = sequences_at(connection, view, archive=archive, standing=standing, as_of=as_of)
    people = _people(moments, *_spans_of(keys), at=at)
    packed = pack_rows(
        view, values[people.first], as_of=at, valid_until=people.valid_until, grant_start=starts[people.first]
    )
    tables = _timetables(view, people, moments, starts, values, at=at)
    names, begun = keys.take(people.first).to_pylist(), starts[people.first].tolist()
    none = _none(view)
    for key, row, table, start in zip(names, packed, tables, begun, strict=True):
        if view.sequences:
            row += pack_sequences(lists.get(key, none))
        yield OnlineRow(key, row, table, at, start)


def latest_items(view: View, *, folder: Folder, as_of: datetime) -> Iterator[tuple[str, bytes]]:
    """(item id, packed row) of each item, as of `as_of`."""
    at = to_micros(as_of)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        keys, moments, _, values = _changes(connection, view, folder=folder, at=at)
    people = _people(moments, *_spans_of(keys), at=at)
    none = np.zeros(len(people.first), dtype=np.int64)
    rows = pack_rows(view, values[people.first], as_of=at, valid_until=people.valid_until, grant_start=none)
    yield from zip(keys.take(people.first).to_pylist(), rows, strict=True)


def sequences_at(
    connection: duckdb.DuckDBPyConnection, view: View, *, archive: Archive, standing: Standing, as_of: datetime
) -> dict[str, list[list[str]]]:
    """Every person's last-n lists at `as_of`, newest first; ties in time are broken by source and id."""
    if not view.sequences:
        return {}
    admit_events(DuckDBBatch(connection), view, archive=archive, standing=standing, as_of=as_of)
    lists: dict[str, list[list[str]]] = {}
    for place, feature in enumerate(view.sequences):
        rows = connection.execute(
            f"SELECT k, list(v ORDER BY o DESC, source, id) FROM (SELECT k, o, source, id, {feature.column}::VARCHAR AS v "
            f"FROM {event_table(feature.event)} WHERE {feature.column} IS NOT NULL "
            f"QUALIFY row_number() OVER (PARTITION BY k ORDER BY o DESC, source, id) <= {feature.n}) GROUP BY k"
        ).fetchall()
        for key, values in rows:
            lists.setdefault(key, _none(view))[place] = values
    return lists


def _none(view: View) -> list[list[str]]:
    return [[] for _ in view.sequences]


@dataclass(frozen=True, slots=True)
class _People:
    """Whose rows lie where in a table sorted by entity and moment: from `first` up to `end`, int64 `[n]`."""

    first: np.ndarray
    end: np.ndarray
    valid_until: np.ndarray


def _spans_of(keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Where each entity's rows begin and end, in a column sorted by entity."""
    runs = pc.run_end_encode(keys) if len(keys) else None
    end = np.asarray(runs.run_ends).astype(np.int64) if runs is not None else np.empty(0, dtype=np.int64)
    return np.concatenate((np.zeros(min(1, len(end)), dtype=np.int64), end[:-1])), end


def _people(moments: np.ndarray, first: np.ndarray, end: np.ndarray, *, at: int) -> _People:
    """Those whose first row holds at `at`, and until when."""
    known = moments[first] <= at
    first, end = first[known], end[known]
    more = end - first > 1
    valid_until = np.full(len(first), NEVER)
    valid_until[more] = moments[first[more] + 1]
    return _People(first, end, valid_until)


def _timetables(
    view: View, people: _People, moments: np.ndarray, starts: np.ndarray, values: np.ndarray, *, at: int
) -> list[bytes]:
    """One timetable a person, empty where nothing changes by itself."""
    more = people.end - people.first > 1
    later = np.ones(len(moments), dtype=bool)
    later[people.first] = False
    sizes = people.end - people.first
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(people.first, sizes)
    owner, rows = owner[later[rows]], rows[later[rows]]
    entries, counts = changes(values[rows - 1], moments[rows], values[rows])
    mine = np.bincount(np.repeat(owner, counts), minlength=len(sizes))
    tables = pack_timetables(view, entries, mine, as_of=at, grant_start=starts[people.first])
    return [table if any_ else b"" for table, any_ in zip(tables, more.tolist(), strict=True)]


def _changes(
    connection: duckdb.DuckDBPyConnection, view: View, *, folder: Folder, at: int
) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """The row that holds at `at` and the ones that follow while it may be read, by entity and moment."""
    built = built_view(folder, view)
    start = "epoch_us(grant_start)" if view.entity is Entity.USER else "0"
    numbers = ", ".join(
        f"epoch_us({f.name})::DOUBLE AS {f.name}" if since else f.name
        for f, since in zip(view.numbers, view.since, strict=True)
    )
    granted = "JOIN granted ON granted.k = v.k AND granted.start = s" if view.entity is Entity.USER else ""
    query = (
        f"WITH v AS (SELECT {view.key} AS k, epoch_us(valid_from) AS m, {start} AS s, {numbers} "
        f"FROM {built.sql(on=connection)} v WHERE epoch_us(valid_from) < {at + view.time_to_live_us}), "
        f"held AS (SELECT k, max(m) AS since FROM v WHERE m <= {at} GROUP BY k) "
        f"SELECT v.* FROM v JOIN held ON held.k = v.k AND m >= since {granted} ORDER BY v.k, m"
    )
    with built.reading():
        found = connection.execute(query).to_arrow_table()
    values = (
        np.column_stack([found[f.name].to_numpy().astype(np.float64, copy=False) for f in view.numbers])
        if found.num_rows
        else np.empty((0, len(view.numbers)))
    )
    return (
        found["k"].combine_chunks(),
        found["m"].to_numpy(),
        found["s"].to_numpy(),
        np.ascontiguousarray(values),
    )
