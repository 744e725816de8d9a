"""The archive: every accepted event, in append-only Parquet files partitioned by type and day.

A batch appears whole or not at all: it is written to a staging folder first and moved into place file by file at the
end. Files are only ever rewritten to take something out: a person, or what is past its time. It lies on a local disk or
in an S3 bucket, sealed (in the staging folder already) if its folder has a seal.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.events.errors import ArchiveDamaged
from aap.events.schema import event_type
from aap.infra.atomic_files import explain_full_disk
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder, StoredFile
from aap.infra.parquet_encryption import Seal

__all__ = ["Archive"]

_AT_ONCE = 8
"""Footers read side by side: on S3 each is a request of its own."""


_PIECE = 200_000
"""Rows handed over at a time: some 40 MB."""

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
        rows = self.folder.rows(found, schema=event_type(event).arrow, on=on)
        return f"(SELECT * FROM {rows} UNION ALL BY NAME {nothing})"

    def keys(self) -> dict[StoredFile, str]:
        """The name of the key each file is sealed under, empty for an open one; raises `KeyFileError` when one is gone."""
        files = self.files()
        found = {} if self.folder.seal is None else self.folder.seal.keys(self.folder, files)
        return {f: key.master if (key := found.get(f)) else "" for f in files}

    def sealed(self, files: Sequence[StoredFile]) -> bool:
        """Whether any of these files is sealed; raises `KeyFileError` when a key that is needed is not there."""
        return self.folder.seal is not None and any(self.folder.seal.keys(self.folder, files).values())

    def append(self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], *, batch: str) -> None:
        """Add, for each event type, the rows of a table of `connection` (with the declared columns): together one batch.

        `batch` names the files; a batch of the same name is replaced, so that a repeated write adds nothing. Raises
        `DiskFull` with the archive as it was.
        """
        with self._batch(batch, tables) as staging:
            for event, table in tables.items():
                _write(connection, table, event=event, to=staging / event, seal=self.folder.seal)

    def append_tables(self, tables: Mapping[str, pa.Table], *, batch: str) -> None:
        """The same of tables in memory, without DuckDB: a quarter of the work for a batch of 40,000 events."""
        with self._batch(batch, tables) as staging:
            for event, table in tables.items():
                _write_table(table, event=event, to=staging / event, seal=self.folder.seal)

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
        with open_duckdb() as connection:
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
            pq.write_table(left, rewritten, compression="zstd", encryption_properties=_encryption(self.folder.seal))
            self.folder.write(file.name, rewritten.getvalue())
            before[file.name] = file
        return {before[f.name]: f for f in self.files() if f.name in before} if before else {}

    def read(self, file: StoredFile) -> pa.Table:
        """All rows of one file."""
        with self.folder.parquet_file(file.name) as opened:
            return opened.read()

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


def _write(connection: duckdb.DuckDBPyConnection, table: str, *, event: str, to: Path, seal: Seal | None) -> None:
    to.mkdir(parents=True)
    columns = ", ".join(event_type(event).arrow.names)
    # DuckDB can't write sealed files, and takes longer for open ones: it hands over the rows in order.
    ordered = connection.execute(f"SELECT {columns} FROM {table} ORDER BY occurred_at").to_arrow_reader(_PIECE)
    declared = event_type(event).arrow
    with _Days(to, declared, seal) as days:
        for batch in ordered:
            days.add(pa.Table.from_batches([batch]).cast(declared))


def _write_table(table: pa.Table, *, event: str, to: Path, seal: Seal | None) -> None:
    """As `_write`: a file a day, by the moment of the event."""
    declared = event_type(event).arrow
    with _Days(to, declared, seal) as days:
        days.add(table.select(declared.names).cast(declared).sort_by("occurred_at"))


class _Days(AbstractContextManager["_Days"]):
    """Files of one event type, one a day, written from rows that come in the order they occurred."""

    def __init__(self, folder: Path, schema: pa.Schema, seal: Seal | None) -> None:
        self._folder, self._schema, self._seal = folder, schema, seal
        self._day: date | None = None
        self._file: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table) -> None:
        dates = rows["occurred_at"].cast(pa.timestamp("us")).cast(pa.date32()).combine_chunks()
        first = 0
        for day, count in zip(*map(pa.Array.to_pylist, pc.value_counts(dates).flatten()), strict=True):
            if self._file is None or day != self._day:
                self._file = self._begin(day)
            self._file.write_table(rows.slice(first, count))
            first += count

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self, day: date) -> pq.ParquetWriter:
        self.__exit__()
        place = self._folder / f"day={day.isoformat()}"
        place.mkdir(parents=True)
        self._day = day
        return pq.ParquetWriter(
            place / "part-0.parquet", self._schema, compression="zstd", compression_level=1,
            use_dictionary=[name for name in self._schema.names if name not in _EACH_ITS_OWN], store_schema=False,
            encryption_properties=_encryption(self._seal),
        )  # fmt: skip


def _encryption(seal: Seal | None) -> Any:
    return None if seal is None else seal.encryption()


def _footer(folder: Folder, name: str) -> pq.FileMetaData:
    try:
        with folder.parquet_file(name) as file:
            return file.metadata
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
