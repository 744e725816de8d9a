"""The latest values of a view, from its Parquet file to packed rows: what materialization writes.

For each person: the row that holds at `as_of`, when it will next change by itself, the timetable of those changes for as
long as the row may be read, and the view's sequences. The file is sorted by entity and moment (`build.write_view`): keys
and moments are read first, then the values of the rows that matter, a piece of the file at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.events.archive import Archive
from aap.features.engines.base import DuckDBBatch
from aap.features.offline.build import Standing, admit_events, current_spans
from aap.features.offline.change_points import event_table
from aap.features.offline.store import OfflineValues, built_view
from aap.features.online.reader import OnlineRows, to_micros
from aap.features.online.row_codec import NEVER, changes, pack_rows, pack_sequences, pack_timetables
from aap.features.views import View
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder

__all__ = ["known_until", "latest_items", "latest_rows", "newest_values", "sequences_at"]


def known_until(view: View, *, folder: Folder, as_of: datetime) -> datetime:
    """Up to when a row made at `as_of` knows what was received: no longer than the view's files do.

    A row that says so is never taken for newer than one which knows more, and can be recomputed. Raises
    `FeaturesNotBuilt`.
    """
    return min(as_of, built_view(folder, view).as_of)


_ROWS_A_PIECE = 32_768
"""Rows of the file read at once: some megabytes, and a few thousand people to send while the next are read."""


def latest_rows(
    view: View, *, folder: Folder, archive: Archive, standing: Standing, as_of: datetime
) -> Iterator[OnlineRows]:
    """One row for each person whose grant is in force at `as_of` and was when the view was built."""
    at = to_micros(as_of)
    granted = current_spans(standing, view.purpose, as_of=as_of)
    lists: dict[str, list[list[str]]] = {}
    if view.sequences:
        with open_duckdb() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            lists = sequences_at(connection, view, archive=archive, standing=standing, as_of=as_of)
    none = _none(view)
    for piece in _read_ahead(_pieces(view, built_view(folder, view), at=at, granted=granted)):
        packed: Sequence[bytes] = piece.packed(view, at=at)
        if view.sequences:
            packed = [row + pack_sequences(lists.get(k, none)) for k, row in zip(piece.names, packed, strict=True)]
        tables = _timetables(view, piece, at=at)
        yield OnlineRows(piece.names, packed, tables, np.full(len(packed), at), piece.starts)


def latest_items(view: View, *, folder: Folder, as_of: datetime) -> Iterator[tuple[str, bytes]]:
    """(item id, packed row) of each item, as of `as_of`."""
    at = to_micros(as_of)
    for piece in _pieces(view, built_view(folder, view), at=at, granted=None):
        yield from zip(piece.names, piece.packed(view, at=at), strict=True)


def sequences_at(
    connection: duckdb.DuckDBPyConnection, view: View, *, archive: Archive, standing: Standing, as_of: datetime
) -> dict[str, list[list[str]]]:
    """Every person's last-n lists at `as_of`, newest first; ties in time are broken by source and id."""
    if not view.sequences:
        return {}
    admit_events(DuckDBBatch(connection), view, archive=archive, standing=standing, as_of=as_of)
    return newest_values(connection, view)


def newest_values(connection: duckdb.DuckDBPyConnection, view: View) -> dict[str, list[list[str]]]:
    """The last-n lists of everyone in the tables of admissible events that `connection` holds (see `event_table`)."""
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
class _Chosen:
    """Rows of a file that matter at a moment: of each entity the one that holds, then those to come while it may be read."""

    names: pa.Array
    """The entities, `[n]`."""
    first: np.ndarray
    """Where each entity's rows begin among `rows`, int64 `[n]`; there they hold."""
    end: np.ndarray
    starts: np.ndarray
    """Since when each entity's grant is in force, int64 `[n]`."""
    rows: np.ndarray
    """Places in the file, ascending, int64 `[m]`."""
    moments: np.ndarray
    """int64 `[m]`."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some of the entities, with their values: `values[first[i]]` holds now, those up to `end[i]` will."""

    names: list[str]
    first: np.ndarray
    end: np.ndarray
    starts: np.ndarray
    moments: np.ndarray
    values: np.ndarray

    def packed(self, view: View, *, at: int) -> Sequence[bytes]:
        """The rows that hold at `at`, each until its first change."""
        valid_until = np.full(len(self.first), NEVER)
        more = self.end - self.first > 1
        valid_until[more] = self.moments[self.first[more] + 1]
        return pack_rows(view, self.values[self.first], as_of=at, valid_until=valid_until, grant_start=self.starts)


def _read_ahead(source: Generator[_Piece]) -> Iterator[_Piece]:
    """`source`, whose next is read while one is dealt with."""
    with closing(source), ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, source, None)
        while (found := coming.result()) is not None:
            coming = reader.submit(next, source, None)
            yield found


def _pieces(view: View, built: OfflineValues, *, at: int, granted: pa.Table | None) -> Generator[_Piece]:
    """All entities that have a row at `at`, file by file; with `granted`, only under the grant in force."""
    for stored in built.pieces:
        with built.reading(), built.folder.open(stored.name) as file:
            yield from _pieces_of(view, file, at=at, granted=granted)


def _pieces_of(view: View, file: pa.NativeFile, *, at: int, granted: pa.Table | None) -> Iterator[_Piece]:
    """Those of one file, in its order."""
    with pq.ParquetFile(file) as opened:
        chosen = _choose(view, opened, at=at, granted=granted)
        held, begun, person = np.empty((0, len(view.numbers))), 0, 0
        read = 0
        for batch in opened.iter_batches(_ROWS_A_PIECE, columns=list(view.names)):
            here = slice(*np.searchsorted(chosen.rows, (read, read + batch.num_rows)))
            held = np.concatenate((held, _numbers_of(view, batch, chosen.rows[here] - read)))
            read += batch.num_rows
            until = int(np.searchsorted(chosen.end, here.stop, side="right"))
            if until == person:
                continue
            done, some = int(chosen.end[until - 1]), slice(person, until)
            yield _Piece(
                names=chosen.names[some].to_pylist(),
                first=chosen.first[some] - begun,
                end=chosen.end[some] - begun,
                starts=chosen.starts[some],
                moments=chosen.moments[begun:done],
                values=held[: done - begun],
            )
            held, begun, person = held[done - begun :], done, until


def _choose(view: View, opened: pq.ParquetFile, *, at: int, granted: pa.Table | None) -> _Chosen:
    columns = [view.key, "valid_from"] + (["grant_start"] if granted is not None else [])
    found = opened.read(columns=columns)
    keys, moments = found[view.key].combine_chunks(), _micros_of(found["valid_from"])
    ends = np.asarray(pc.run_end_encode(keys).run_ends).astype(np.int64) if len(keys) else np.empty(0, np.int64)
    firsts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1]))
    names = keys.take(pa.array(firsts))
    owner = np.repeat(np.arange(len(firsts)), ends - firsts)
    past = np.concatenate(([0], np.cumsum(moments <= at)))
    holding = firsts + past[ends] - past[firsts] - 1
    keep = (np.arange(len(moments)) >= holding[owner]) & (moments < at + view.time_to_live_us)
    starts = np.zeros(len(names), np.int64)
    if granted is not None:
        place = pc.index_in(names, granted["k"]).fill_null(-1).to_numpy()
        starts = np.concatenate((granted["start"].to_numpy(), [-1]))[place]
        keep &= (place >= 0)[owner] & (_micros_of(found["grant_start"]) == starts[owner])
    rows = np.flatnonzero(keep)
    present, first, sizes = np.unique(owner[rows], return_index=True, return_counts=True)
    known = moments[rows[first]] <= at
    kept = np.repeat(known, sizes)
    rows, sizes, present = rows[kept], sizes[known], present[known]
    end = np.cumsum(sizes)
    return _Chosen(names.take(pa.array(present)), end - sizes, end, starts[present], rows, moments[rows])


def _numbers_of(view: View, batch: pa.RecordBatch, rows: np.ndarray) -> np.ndarray:
    """The view's numbers of some rows of `batch`, float64 `[n, n_numbers]`; a null is NaN, a moment microseconds."""
    values = np.empty((len(rows), len(view.numbers)))
    for place, (name, since) in enumerate(zip(view.names, view.since, strict=True)):
        column = batch[name].cast(pa.int64()) if since else batch[name]
        values[:, place] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)[rows]
    return values


def _micros_of(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()


def _timetables(view: View, piece: _Piece, *, at: int) -> list[bytes]:
    """One timetable a person, empty where nothing changes by itself."""
    sizes = piece.end - piece.first
    if (sizes == 1).all():
        return [b""] * len(sizes)
    later = np.ones(len(piece.moments), dtype=bool)
    later[piece.first] = False
    rows, owner = np.flatnonzero(later), np.repeat(np.arange(len(sizes)), sizes - 1)
    entries, counts = changes(piece.values[rows - 1], piece.moments[rows], piece.values[rows])
    mine = np.bincount(np.repeat(owner, counts), minlength=len(sizes))
    tables = pack_timetables(view, entries, mine, as_of=at, grant_start=piece.starts)
    return [table if more else b"" for table, more in zip(tables, (sizes > 1).tolist(), strict=True)]
