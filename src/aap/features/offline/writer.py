"""Writing the offline values of a view: whole, or some entities anew and the others as they are, with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import md5

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.features.declarations import Entity
from aap.features.offline.store import RECORD, Inputs, OfflineValues, Piece, digest, made_by, read_record, schema_of
from aap.features.views import View
from aap.infra.object_store import Folder, StoredFile

__all__ = ["BUCKETS", "ValuesWriter", "bucket_of", "forget_before", "record_inputs", "without"]

BUCKETS = "0123456789abcdef"
"""The first hexadecimal digit of an entity's MD5."""


def bucket_of(key: str) -> str:
    """In which bucket an entity is."""
    return md5(key.encode(), usedforsecurity=False).hexdigest()[0]


class ValuesWriter:
    """Makes a view's values of tables of change points, bucket by bucket. `finish` makes them the ones that count.

    With `due` the tables hold the values of these entities only; those of all others are taken over from the build
    `before`.
    """

    def __init__(
        self, view: View, *, folder: Folder, before: OfflineValues | None = None, due: pa.Array | None = None
    ) -> None:
        self.computed = 0
        """Entities in the tables so far."""
        self._view, self._place, self._before, self._due = view, folder / view.name, before, due
        self._old = {p.name[0]: p for p in before.pieces} if before and due is not None else {}
        self._touched = set(BUCKETS) if due is None else {bucket_of(k) for k in due.to_pylist()}
        self._pieces: list[Piece] = []

    def add(self, connection: duckdb.DuckDBPyConnection, table: str, *, buckets: str = BUCKETS) -> None:
        """Write these buckets, all of whose change points `table` has (see `build_change_points`).

        Raises `DamagedValues` when a file of the build before is not what was written.
        """
        for bucket, rows in _by_bucket(connection, table, self._view, buckets):
            self.computed += _count(rows[self._view.key])
            old = self._old.get(bucket)
            if bucket not in self._touched:
                self._pieces += [old] if old else []
                continue
            if self._before and old:
                rows = _merged(self._before.rows_of(old), rows, self._view, without=self._due)
            if rows.num_rows:
                self._pieces.append(_put(self._place, bucket, rows, entities=_count(rows[self._view.key])))

    def finish(self, inputs: Inputs) -> OfflineValues:
        """From here on the buckets written are the view's values, computed from `inputs`."""
        made = OfflineValues(
            folder=self._place,
            view=self._view,
            made_by=made_by(self._view),
            as_of=inputs.as_of,
            pieces=tuple(sorted(self._pieces, key=lambda p: p.name)),
            spans=_put_spans(self._place, inputs.spans),
            events=tuple(inputs.events),
            partly=inputs.partly,
        )
        _record(made)
        return made


def record_inputs(before: OfflineValues, inputs: Inputs) -> OfflineValues:
    """Say that these inputs give the same values as those before."""
    made = replace(
        before,
        as_of=inputs.as_of,
        spans=_put_spans(before.folder, inputs.spans),
        events=tuple(inputs.events),
        partly=inputs.partly,
    )
    _record(made)
    return made


def without(before: OfflineValues, user_key: str, *, rewritten: Mapping[StoredFile, StoredFile]) -> OfflineValues:
    """The same values of a view of people but one person's: what a build would have made had they not been there.

    `rewritten` are the archive's files that lost that person's events and nothing else since, each with what it is now.
    Nobody is left of whom only the files of the build before knew. Raises `DamagedValues`.
    """
    pieces = []
    for piece in before.pieces:
        rows = before.rows_of(piece) if piece.name[0] == bucket_of(user_key) else None
        if rows is None or user_key not in rows[before.view.key].to_pylist():
            pieces.append(piece)
            continue
        left = rows.filter(pc.field(before.view.key) != user_key)
        if left.num_rows:
            pieces.append(_put(before.folder, piece.name[0], left, entities=piece.entities - 1))
    spans = before.rows_of(before.spans)
    made = replace(
        before,
        pieces=tuple(sorted(pieces, key=lambda p: p.name)),
        spans=_put_spans(before.folder, spans.filter(pc.field("user_key") != user_key)),
        events=tuple(rewritten.get(f, f) for f in before.events),
    )
    _record(made)
    forget_before(made)
    return made


def forget_before(made: OfflineValues) -> None:
    """Delete every file but those of these values, also what somebody may still be reading."""
    needed = {p.name for p in (*made.pieces, made.spans)}
    made.folder.remove(f.name for f in made.folder.files() if f.name not in needed)


def _record(made: OfflineValues) -> None:
    """From here on these are the values; what neither they nor those before need is deleted."""
    before = read_record(made.folder, made.view)
    made.folder.write(RECORD, made.record())
    needed = {p.name for build in (made, before) if build for p in (*build.pieces, build.spans)}
    made.folder.remove(f.name for f in made.folder.files() if f.name not in needed)


def _by_bucket(
    connection: duckdb.DuckDBPyConnection, table: str, view: View, buckets: str
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each bucket in turn, empty or not, by entity and moment."""
    schema = schema_of(view)
    moments = {"valid_from": "moment", **({"grant_start": "grant_start"} if view.entity is Entity.USER else {})}
    moments |= {f.name: f.name for f, since in zip(view.numbers, view.since, strict=True) if since}
    columns = ", ".join(
        f"make_timestamp({moments[n]})::TIMESTAMPTZ AS {n}" if n in moments else n for n in schema.names[1:]
    )
    reader = connection.execute(
        f"SELECT md5(k)[1] AS bucket, k AS {view.key}, {columns} FROM {table} ORDER BY bucket, k, moment"
    ).to_arrow_reader(100_000)
    waiting: list[pa.RecordBatch] = []
    places = iter(buckets)
    bucket = next(places)
    for batch in reader:
        runs = pc.run_end_encode(batch["bucket"])
        start, rows = 0, batch.drop_columns("bucket")
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            while name != bucket:
                yield bucket, _table(waiting, schema)
                waiting, bucket = [], next(places)
            waiting.append(rows.slice(start, end - start))
            start = end
    yield bucket, _table(waiting, schema)
    for left in places:
        yield left, _table([], schema)


def _table(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, batches[0].schema).cast(schema) if batches else schema.empty_table()


def _merged(old: pa.Table, new: pa.Table, view: View, *, without: pa.Array | None) -> pa.Table:
    """The rows of both but the old ones of entities in `without`, by entity and moment."""
    kept = old.filter(pc.invert(pc.is_in(old[view.key], value_set=without)))
    return pa.concat_tables([kept, new]).sort_by([(view.key, "ascending"), ("valid_from", "ascending")])


def _put(folder: Folder, kind: str, rows: pa.Table, *, entities: int) -> Piece:
    """Write rows as one file, named after what it holds. One chunk a column, or the bytes would depend on the chunks."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.combine_chunks(), sink, compression="zstd", row_group_size=100_000, store_schema=False)
    content = sink.getvalue()
    name = f"{kind}-{digest(content)}.parquet"
    folder.write(name, content)
    return Piece(name, content.size, rows.num_rows, entities)


def _put_spans(folder: Folder, spans: pa.Table) -> Piece:
    return _put(folder, "spans", spans.rename_columns(["user_key", "start"]).sort_by("user_key"), entities=len(spans))


def _count(keys: pa.ChunkedArray) -> int:
    """Different keys in a sorted column."""
    return len(pc.unique(keys))
