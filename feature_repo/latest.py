"""The latest values of a view, from its Parquet file to packed rows: what materialization writes.

For each person: the row that holds at `as_of`, when it will next change by itself, the timetable of those changes for as
long as the row may be read, and the view's sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np

from events.archive import Archive
from feature_repo.batch import DuckDBBatch
from feature_repo.build import Standing, admit_events, built_view
from feature_repo.change_points import event_table
from feature_repo.declare import Entity
from feature_repo.online import OnlineRow, to_micros
from feature_repo.packed import NEVER, pack_row, pack_timetable
from feature_repo.views import View

__all__ = ["latest_items", "latest_rows", "sequences_at"]


def latest_rows(
    view: View, *, folder: Path, archive: Archive, standing: Standing, as_of: datetime
) -> Iterator[OnlineRow]:
    """One row for each person whose grant is in force at `as_of` and was when the view was built."""
    at = to_micros(as_of)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        keys, moments, starts, values = _changes(connection, view, folder=folder, at=at)
        spans = {s: {p: v for p, v in by.items() if p is view.purpose} for s, by in standing.items()}
        current = {
            s: to_micros(g.start) for s, by in spans.items() for g in by[view.purpose][0] if g.start <= as_of < g.end
        }
        lists = sequences_at(connection, view, archive=archive, standing=standing, as_of=as_of)
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True]))) if len(keys) else np.array([0])
    for first, end in pairwise(edges):
        key = str(keys[first])
        start = int(starts[first])
        if current.get(key) != start or moments[first] > at:
            continue
        valid_until = int(moments[first + 1]) if end - first > 1 else NEVER
        row = pack_row(
            view,
            values[first],
            as_of=at,
            valid_until=valid_until,
            grant_start=start,
            sequences=lists.get(key, _none(view)),
        )
        later = slice(first + 1, end)
        table = pack_timetable(view, moments[later], values[later], grant_start=start) if end - first > 1 else b""
        yield OnlineRow(key, row, table, at, start)


def latest_items(view: View, *, folder: Path, as_of: datetime) -> Iterator[tuple[str, bytes]]:
    """(item id, packed row) of each item, as of `as_of`."""
    at = to_micros(as_of)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        keys, moments, _, values = _changes(connection, view, folder=folder, at=at)
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True]))) if len(keys) else np.array([0])
    for first, end in pairwise(edges):
        if moments[first] <= at:
            valid_until = int(moments[first + 1]) if end - first > 1 else NEVER
            yield str(keys[first]), pack_row(view, values[first], as_of=at, valid_until=valid_until, grant_start=0)


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


def _changes(
    connection: duckdb.DuckDBPyConnection, view: View, *, folder: Path, at: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The row that holds at `at` and the ones that follow while it may be read, by entity and moment."""
    file = str(built_view(folder, view)).replace("'", "''")
    start = "epoch_us(grant_start)" if view.entity is Entity.USER else "0"
    numbers = ", ".join(
        f"epoch_us({f.name})::DOUBLE AS {f.name}" if since else f.name
        for f, since in zip(view.numbers, view.since, strict=True)
    )
    found = connection.execute(
        f"SELECT {view.key} AS k, epoch_us(valid_from) AS m, {start} AS s, {numbers} FROM read_parquet('{file}') "
        f"WHERE epoch_us(valid_from) < {at + view.time_to_live_us} "
        f"QUALIFY m > {at} OR row_number() OVER (PARTITION BY k, m <= {at} ORDER BY m DESC) = 1 ORDER BY k, m"
    ).to_arrow_table()
    values = (
        np.column_stack([found[f.name].to_numpy().astype(np.float64, copy=False) for f in view.numbers])
        if found.num_rows
        else np.empty((0, len(view.numbers)))
    )
    return (
        np.asarray(found["k"].to_pylist(), dtype=object),
        found["m"].to_numpy(),
        found["s"].to_numpy(),
        np.ascontiguousarray(values),
    )
