"""The archive: every accepted event, in append-only Parquet files partitioned by type and day.

A batch appears whole or not at all: it is written to a staging folder first and moved into place file by file at the
end. Files are only ever rewritten to take something out: a person, or what is past its time. It lies on a local disk or
in an S3 bucket.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from events.errors import ArchiveDamaged
from events.schema import event_type
from storage.files import explain_full_disk
from storage.folder import Folder, StoredFile

__all__ = ["Archive"]

_AT_ONCE = 8
"""Footers read side by side: on S3 each is a request of its own."""


_EACH_ITS_OWN = ("id", "user_key", "occurred_at", "available_at")
"""Columns whose values hardly repeat, which a dictionary would only make longer."""


class Archive:
    """The archive in one folder: `<type>/day=YYYY-MM-DD/<batch>.parquet`."""

    def __init__(self, folder: Folder | Path | str, *, only: Collection[StoredFile] | None = None) -> None:
        self.folder = Folder.at(folder)
        self._only = only
        self._latest: dict[StoredFile, datetime] = {}

    def only(self, files: Collection[StoredFile]) -> Archive:
        """The same archive as if it had just these files, whatever comes or goes."""
        same = Archive(self.folder, only=files)
        same._latest = self._latest
        return same

    def files(self, *events: str) -> list[StoredFile]:
        """The files with events of these types, or of all types, by name."""
        if self._only is not None:
            found = [f for f in self._only if not events or f.name.partition("/")[0] in events]
        elif events:
            found = [replace(f, name=f"{event}/{f.name}") for event in events for f in (self.folder / event).files()]
        else:
            found = self.folder.files()
        return sorted((f for f in found if "/day=" in f.name), key=lambda f: f.name)

    def types(self) -> list[str]:
        """The event types that have any event."""
        return sorted({f.name.partition("/")[0] for f in self.files()})

    def sql(self, event: str, *, on: duckdb.DuckDBPyConnection, files: Sequence[StoredFile] | None = None) -> str:
        """A table expression over all events of one type, or those in `files`, with the declared columns, for `on`."""
        columns = ", ".join(f"NULL::{_duckdb_type(f.type)} AS {f.name}" for f in event_type(event).arrow)
        nothing = f"SELECT {columns} WHERE false"
        found = self.files(event) if files is None else files
        if not found:
            return f"({nothing})"
        # A field declared since the last file was written is in none of them, and null.
        return f"(SELECT * FROM {self.folder.parquet((f.name for f in found), on=on)} UNION ALL BY NAME {nothing})"

    def append(self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], *, batch: str) -> None:
        """Add, for each event type, the rows of a table of `connection` (with the declared columns): together one batch.

        `batch` names the files; a batch of the same name is replaced, so that a repeated write adds nothing. Raises
        `DiskFull` with the archive as it was.
        """
        with self._batch(batch, tables) as staging:
            for event, table in tables.items():
                _write(connection, table, event=event, to=staging / event)

    def append_tables(self, tables: Mapping[str, pa.Table], *, batch: str) -> None:
        """The same of tables in memory, without DuckDB: a quarter of the work for a batch of 40,000 events."""
        with self._batch(batch, tables) as staging:
            for event, table in tables.items():
                _write_table(table, event=event, to=staging / event)

    @contextmanager
    def _batch(self, batch: str, events: Collection[str]) -> Iterator[Path]:
        """A folder whose files, when all are written, are moved to where those of an earlier batch of the name were."""
        with explain_full_disk(self.folder.uri), self._staging(batch) as staging:
            yield staging
            before = {f.name for event in events for f in self.files(event) if f"/{batch}-" in f.name}
            for written in sorted(staging.glob("*/day=*/*.parquet")):
                day = written.parent.relative_to(staging).as_posix()
                name = f"{day}/{batch}-{written.name.removeprefix('part-')}"
                self.folder.take_in(written, name=name)
                before.discard(name)
            self.folder.remove(before)

    def count(self, event: str) -> int:
        """Number of events of one type, from the files' footers."""
        return sum(footer.num_rows for footer in self._footers(self.files(event)))

    def of(self, user_key: str) -> dict[str, pa.Table]:
        """One person's events by type, in the order they occurred; types without any are left out."""
        found = {}
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for event in self.types():
                names = ", ".join(event_type(event).arrow.names)
                rows = connection.execute(
                    f"SELECT {names} FROM {self.sql(event, on=connection)} WHERE user_key = ? "
                    "ORDER BY occurred_at, source, id",
                    [user_key],
                ).to_arrow_table()
                if rows.num_rows:
                    found[event] = rows.cast(event_type(event).arrow)
        return found

    def erase(self, user_key: str) -> dict[StoredFile, StoredFile]:
        """Delete every event of one person; returns the files that held any, each with what it is now."""
        self.clear_staging()
        return self.rewrite(lambda _, table: table.filter(pc.field("user_key") != user_key))

    def rewrite(
        self, kept: Callable[[StoredFile, pa.Table], pa.Table], *, files: Sequence[StoredFile] | None = None
    ) -> dict[StoredFile, StoredFile]:
        """Leave in each file (or each of `files`) only the rows that `kept` gives of them; a file that loses none is not
        touched. Returns the files that did lose some, each with what it is now. One that holds nothing any more stays.
        """
        before: dict[str, StoredFile] = {}
        for file in self.files() if files is None else files:
            table = self.read(file)
            left = kept(file, table)
            if left.num_rows == table.num_rows:
                continue
            rewritten = pa.BufferOutputStream()
            pq.write_table(left, rewritten, compression="zstd")
            self.folder.write(file.name, rewritten.getvalue())
            before[file.name] = file
        return {before[f.name]: f for f in self.files() if f.name in before} if before else {}

    def read(self, file: StoredFile) -> pa.Table:
        """All rows of one file."""
        return pq.read_table(self.folder.open(file.name), partitioning=None)

    def clear_staging(self) -> None:
        """Delete what an import that was killed has left behind. No import may be running."""
        if self.folder.path is not None:
            shutil.rmtree(self.folder.path / ".staging", ignore_errors=True)

    def later_than(self, moment: datetime) -> frozenset[str]:
        """The files, by name, with an event that had not occurred or was not available yet at `moment`.

        Told by the files' footers, each of which is read once; raises `ArchiveDamaged` naming one that can't be.
        """
        files = self.files()
        asked = [f for f in files if f not in self._latest]
        self._latest.update(zip(asked, map(_latest, self._footers(asked)), strict=True))
        return frozenset(f.name for f in files if self._latest[f] > moment)

    def check(self, events: Iterable[str]) -> None:
        """Raise `ArchiveDamaged` naming the first file that can't be read."""
        if wanted := list(events):
            list(self._footers(self.files(*wanted)))

    def _footers(self, files: Iterable[StoredFile]) -> Iterator[pq.FileMetaData]:
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            yield from readers.map(partial(_footer, self.folder), (f.name for f in files))

    @contextmanager
    def _staging(self, batch: str) -> Iterator[Path]:
        """A folder of this machine that is gone afterwards, on the archive's own disk if it has one."""
        if self.folder.path is None:
            with tempfile.TemporaryDirectory(prefix="aap-batch-") as folder:
                yield Path(folder)
            return
        staging = self.folder.path / ".staging" / batch
        shutil.rmtree(staging, ignore_errors=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(connection: duckdb.DuckDBPyConnection, table: str, *, event: str, to: Path) -> None:
    to.mkdir(parents=True)
    columns = ", ".join(event_type(event).arrow.names)
    connection.execute(
        f"COPY (SELECT {columns}, CAST(occurred_at AT TIME ZONE 'UTC' AS DATE) AS day FROM {table} "
        f"ORDER BY occurred_at) TO '{_escaped(to)}' "
        f"(FORMAT parquet, COMPRESSION zstd, PARTITION_BY (day), FILENAME_PATTERN 'part-{{i}}')"
    )


def _write_table(table: pa.Table, *, event: str, to: Path) -> None:
    """As `_write`: a file a day, by the moment of the event."""
    declared = event_type(event).arrow
    rows = table.select(declared.names).cast(declared).sort_by("occurred_at")
    dates = rows["occurred_at"].cast(pa.timestamp("us")).cast(pa.date32()).combine_chunks()
    first = 0
    for day, count in zip(*map(pa.Array.to_pylist, pc.value_counts(dates).flatten()), strict=True):
        place = to / f"day={day.isoformat()}"
        place.mkdir(parents=True)
        pq.write_table(
            rows.slice(first, count), place / "part-0.parquet", compression="zstd", compression_level=1,
            use_dictionary=[name for name in declared.names if name not in _EACH_ITS_OWN], store_schema=False,
        )  # fmt: skip
        first += count


def _footer(folder: Folder, name: str) -> pq.FileMetaData:
    try:
        with folder.open(name) as file:
            return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArchiveDamaged(
            f"The archive file {folder}/{name} can't be read ({error}); restore it from a backup, or move it away and "
            "import again."
        ) from None


def _latest(footer: pq.FileMetaData) -> datetime:
    """When the last of a file's events was known; the end of time where its footer doesn't say."""
    if not footer.num_rows:  # all its events were erased
        return datetime.min.replace(tzinfo=UTC)
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    columns = [g.column(i) for g in groups for i in range(g.num_columns)]
    told = [c.statistics for c in columns if c.path_in_schema in ("occurred_at", "available_at")]
    if not all(t is not None and t.has_min_max for t in told):
        return datetime.max.replace(tzinfo=UTC)
    return max((t.max for t in told), default=datetime.min.replace(tzinfo=UTC))


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}[kind]


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")
