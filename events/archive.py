"""The archive: every accepted event, in append-only Parquet files partitioned by type and day.

A batch appears whole or not at all: it is written to a staging folder first and moved into place file by file at the
end. Files are never rewritten except to erase a person.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from events.errors import ArchiveDamaged
from events.schema import event_type
from storage.files import explain_full_disk

__all__ = ["Archive"]


class Archive:
    """The archive below one folder: `<type>/day=YYYY-MM-DD/<batch>.parquet`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def types(self) -> list[str]:
        """The event types that have any event."""
        return sorted(
            p.name for p in self.root.glob("*") if not p.name.startswith(".") and any(p.glob("day=*/*.parquet"))
        )

    def sql(self, event: str) -> str:
        """A DuckDB table expression over all events of one type, with the declared columns."""
        declared = event_type(event).arrow
        pattern = self.root / event / "day=*" / "*.parquet"
        if not any((self.root / event).glob("day=*/*.parquet")):
            columns = ", ".join(f"NULL::{_duckdb_type(f.type)} AS {f.name}" for f in declared)
            return f"(SELECT {columns} WHERE false)"
        return f"read_parquet('{_escaped(pattern)}', hive_partitioning = false, union_by_name = true)"

    def append(self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], *, batch: str) -> None:
        """Add, for each event type, the rows of a table of `connection` (with the declared columns): together one batch.

        `batch` names the files; a batch of the same name is replaced, so that a repeated write adds nothing. Raises
        `DiskFull` with the archive as it was.
        """
        staging = self.root / ".staging" / batch
        shutil.rmtree(staging, ignore_errors=True)
        try:
            with explain_full_disk(self.root):
                for event, table in tables.items():
                    _write(connection, table, event=event, to=staging / event)
                for written in sorted(staging.glob("*/day=*/*.parquet")):
                    place = (
                        self.root
                        / written.parent.relative_to(staging)
                        / f"{batch}-{written.name.removeprefix('part-')}"
                    )
                    place.parent.mkdir(parents=True, exist_ok=True)
                    written.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def count(self, event: str) -> int:
        """Number of events of one type, from the files' footers."""
        return sum(_footer(f).num_rows for f in (self.root / event).glob("day=*/*.parquet"))

    def of(self, user_key: str) -> dict[str, pa.Table]:
        """One person's events by type, in the order they occurred; types without any are left out."""
        found = {}
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for event in self.types():
                names = ", ".join(event_type(event).arrow.names)
                rows = connection.execute(
                    f"SELECT {names} FROM {self.sql(event)} WHERE user_key = ? ORDER BY occurred_at, source, id",
                    [user_key],
                ).to_arrow_table()
                if rows.num_rows:
                    found[event] = rows.cast(event_type(event).arrow)
        return found

    def erase(self, user_key: str) -> int:
        """Delete every event of one person; returns how many there were."""
        erased = 0
        for file in self.root.glob("*/day=*/*.parquet"):
            table = pq.read_table(file, partitioning=None)
            keep = table.filter(pa.compute.field("user_key") != user_key)
            if keep.num_rows == table.num_rows:
                continue
            erased += table.num_rows - keep.num_rows
            rewritten = file.with_suffix(".tmp")
            pq.write_table(keep, rewritten, compression="zstd")
            rewritten.replace(file)
        return erased

    def check(self, events: Iterable[str]) -> None:
        """Raise `ArchiveDamaged` naming the first file that can't be read."""
        for event in events:
            for file in sorted((self.root / event).glob("day=*/*.parquet")):
                _footer(file)


def _write(connection: duckdb.DuckDBPyConnection, table: str, *, event: str, to: Path) -> None:
    to.mkdir(parents=True)
    columns = ", ".join(event_type(event).arrow.names)
    connection.execute(
        f"COPY (SELECT {columns}, CAST(occurred_at AT TIME ZONE 'UTC' AS DATE) AS day FROM {table} "
        f"ORDER BY occurred_at) TO '{_escaped(to)}' "
        f"(FORMAT parquet, COMPRESSION zstd, PARTITION_BY (day), FILENAME_PATTERN 'part-{{i}}')"
    )


def _footer(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArchiveDamaged(
            f"The archive file {file} can't be read ({error}); restore it from a backup, or move it away and import again."
        ) from None


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}[kind]


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")
