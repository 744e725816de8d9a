"""Tables to read: CSV, Parquet or SQL, as a stream of Arrow batches with a known number of rows.

Only the columns asked for are read. What is wrong with a source is one `SourceUnreadable` sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from aap.events.errors import SourceUnreadable
from aap.infra.duckdb import open_duckdb

__all__ = ["BATCH", "Source", "open_source"]

BATCH = 250_000
"""Rows read at a time: bounds memory, and moves the progress bar."""


@dataclass(frozen=True, slots=True)
class Source:
    """A table that can be read once through."""

    name: str
    rows: int
    columns: tuple[str, ...]
    batches: Iterator[pa.Table]
    malformed: list[tuple[int, str]]
    """Lines of a CSV that are not rows (line number, what is wrong); filled while `batches` is read."""


def open_source(location: str, columns: Sequence[str], *, table: str | None = None, batch: int = BATCH) -> Source:
    """The table at `location`: a `.csv` or `.parquet` path, or an SQLAlchemy URL with the name of a `table`.

    Raises `SourceUnreadable` when it is missing, empty, damaged, or lacks one of `columns`.
    """
    if "://" in location:
        return _sql(location, columns, table=table, batch=batch)
    path = Path(location)
    if not path.is_file():
        raise SourceUnreadable(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise SourceUnreadable(f"The file {path} is empty.")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _file(path, f"read_parquet({_quoted(str(path))})", columns, batch=batch)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        reader = f"read_csv({_quoted(str(path))}, header = true, all_varchar = true, store_rejects = true)"
        return _file(path, reader, columns, batch=batch)
    raise SourceUnreadable(f"The file {path} is neither .csv nor .parquet; give one of these or a database URL.")


def _file(path: Path, reader: str, columns: Sequence[str], *, batch: int) -> Source:
    connection = open_duckdb()
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = true")
    try:
        there = [d[0] for d in connection.execute(f"SELECT * FROM {reader} LIMIT 0").description or ()]
        _demand(columns, there, name=str(path))
        rows = connection.execute(f"SELECT count(*) FROM {reader}").fetchall()[0][0]
    except duckdb.Error as error:
        if "sniffing" in str(error):
            raise SourceUnreadable(
                f"The file {path} is not one table of CSV: save it anew with one separator, one way of quoting and one kind "
                "of line ending throughout."
            ) from None
        raise SourceUnreadable(f"The file {path} can't be read: {_first_line(error)}.") from None
    if rows == 0:
        raise SourceUnreadable(f"The file {path} has no rows.")
    malformed: list[tuple[int, str]] = []
    return Source(str(path), rows, tuple(there), _read(connection, reader, columns, path, batch, malformed), malformed)


def _read(
    connection: duckdb.DuckDBPyConnection,
    reader: str,
    columns: Sequence[str],
    path: Path,
    batch: int,
    malformed: list[tuple[int, str]],
) -> Iterator[pa.Table]:
    picked = ", ".join(_name(c) for c in columns)
    try:
        for record_batch in connection.execute(f"SELECT {picked} FROM {reader}").to_arrow_reader(batch):
            yield pa.Table.from_batches([record_batch])
        if "store_rejects" in reader:
            found = connection.execute("SELECT DISTINCT line, error_type FROM reject_errors ORDER BY line").fetchall()
            malformed.extend((line, str(kind).lower()) for line, kind in found)
    except (duckdb.Error, OSError) as error:
        raise SourceUnreadable(f"The file {path} can't be read: {_first_line(error)}.") from None
    finally:
        connection.close()


def _sql(url: str, columns: Sequence[str], *, table: str | None, batch: int) -> Source:
    if table is None:
        raise SourceUnreadable("A database URL needs a table: give --table NAME or `table:` in the mapping.")
    try:
        engine = sa.create_engine(url)
        shown = engine.url.render_as_string(hide_password=True)
        if engine.dialect.name == "sqlite" and engine.url.database and not Path(engine.url.database).is_file():
            raise SourceUnreadable(f"There is no database {shown}.")
        known = sa.Table(table, sa.MetaData(), autoload_with=engine)
    except sa.exc.NoSuchTableError:
        raise SourceUnreadable(f"The database {shown} has no table {table!r}.") from None
    except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as error:
        raise SourceUnreadable(f"The database can't be read: {_first_line(error)}.") from None
    _demand(columns, [c.name for c in known.columns], name=f"{table} in {shown}")
    with _unreadable(shown), engine.connect() as connection:
        rows = connection.execute(sa.select(sa.func.count()).select_from(known)).scalar_one()
    if rows == 0:
        raise SourceUnreadable(f"The table {table} in {shown} has no rows.")
    query = sa.select(*(known.c[c] for c in columns))
    return Source(
        f"{shown}/{table}", rows, tuple(c.name for c in known.columns), _stream(engine, query, columns, batch), []
    )


def _stream(
    engine: sa.Engine, query: sa.Select[tuple[object, ...]], columns: Sequence[str], batch: int
) -> Iterator[pa.Table]:
    with _unreadable(engine.url.render_as_string(hide_password=True)), engine.connect() as connection:
        for rows in connection.execution_options(stream_results=True).execute(query).partitions(batch):
            yield pa.table({name: _array([row[i] for row in rows]) for i, name in enumerate(columns)})
    engine.dispose()


def _array(values: list[object]) -> pa.Array:
    """Databases without strict types mix them in one column; such a column is read as text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())


@contextmanager
def _unreadable(shown: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise SourceUnreadable(f"The database {shown} can't be read: {_first_line(error)}.") from None


def _demand(columns: Sequence[str], there: Sequence[str], *, name: str) -> None:
    missing = [c for c in columns if c not in there]
    if missing:
        raise SourceUnreadable(f"{name} has no column {missing[0]!r}; it has {', '.join(there)}.")


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
