"""A batch engine at work: makes tables from SQL in its dialect and hands the last one over. DuckDB's is here.

The engines share every statement (`build.admit_events`, `change_points`) and the writing of the file; a `Batch` is what is
left: where tables come from, and where they stay until the next statement reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import duckdb
import psutil
import pyarrow as pa

from aap.events.archive import Archive
from aap.features.engines.dialects import DUCKDB, Dialect
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder

__all__ = ["Batch", "DuckDBBatch", "Engine", "duckdb_engine"]


class Batch(Protocol):
    """Tables of one computation, known by their names to the statements that follow."""

    @property
    def dialect(self) -> Dialect:
        """How its SQL is written."""

    @property
    def at_once(self) -> int:
        """Of how many bytes of the archive's files at once it computes best, and within bounds of memory."""

    def register(self, table: str, rows: pa.Table) -> None:
        """Make `table` of rows in memory."""

    def events(self, archive: Archive, event: str) -> str:
        """A table expression over all archived events of one type, with the declared columns."""

    def make(self, table: str, select: str) -> None:
        """Make `table` of the rows of a query, replacing one of that name."""

    def stacked(self, selects: Sequence[str]) -> str:
        """A query for the rows of all `selects`, columns matched by name and null where a query has none of that name.

        Of the columns only `k` may be something other than a BIGINT.
        """

    def fetched(self, table: str, *, scratch: Folder) -> tuple[duckdb.DuckDBPyConnection, str]:
        """`table` for DuckDB: a connection and a table expression in it, good until the computation ends.

        `scratch` is a folder that may be made and used meanwhile; every machine of the engine sees it.
        """

    def part(self) -> AbstractContextManager[Batch]:
        """A computation within this one: it reads this one's tables, and lets go of its own when it ends.

        It may not make a table of a name this one has made.
        """


_LEAST = 2 * 1024**3
"""Bytes DuckDB may use where an eighth of the machine's memory is less. What is beyond that goes to disk, which a year of
1.4 million purchases is as fast with; DuckDB's own limit, four fifths, would leave the service and Redis nothing."""

Engine = Callable[[], AbstractContextManager[Batch]]
"""Begins a computation; leaving its context lets go of all its tables."""


class DuckDBBatch:
    """Tables of one DuckDB connection, whose time zone is set to UTC."""

    dialect: Dialect = DUCKDB
    at_once: int = 20_000_000
    """About a million purchase lines. Of more, each costs more: the groups they are summed in, of some fifty totals each, no
    longer lie in the processor's caches."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("SET TimeZone = 'UTC'")
        self._connection = connection
        self._made: set[str] = set()

    def register(self, table: str, rows: pa.Table) -> None:
        """See `Batch`; the rows are copied."""
        self._connection.register(f"arrow_{table}", rows)
        self.make(table, f"SELECT * FROM arrow_{table}")
        self._connection.unregister(f"arrow_{table}")

    def events(self, archive: Archive, event: str) -> str:
        """See `Batch`."""
        return archive.sql(event, on=self._connection)

    def make(self, table: str, select: str) -> None:
        """See `Batch`."""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {select}")
        self._made.add(table)

    def stacked(self, selects: Sequence[str]) -> str:
        """See `Batch`."""
        return " UNION ALL BY NAME ".join(selects)

    def fetched(self, table: str, *, scratch: Folder) -> tuple[duckdb.DuckDBPyConnection, str]:
        """See `Batch`; `scratch` is not needed."""
        return self._connection, table

    @contextmanager
    def part(self) -> Iterator[Batch]:
        """See `Batch`. One that fails leaves its tables to the connection."""
        part = DuckDBBatch(self._connection)
        yield part
        for table in sorted(part._made):
            part._connection.execute(f"DROP TABLE {table}")


@contextmanager
def duckdb_engine() -> Iterator[Batch]:
    """DuckDB in this process: the default, for all that fits one machine."""
    with open_duckdb() as connection:
        connection.execute(f"SET memory_limit = '{max(_LEAST, psutil.virtual_memory().total // 8)} bytes'")
        yield DuckDBBatch(connection)
