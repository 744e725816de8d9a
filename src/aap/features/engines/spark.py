"""Spark as a batch engine: the statements DuckDB runs, on a cluster when one machine is not enough.

It reads the archive's Parquet and runs the same SQL in its own dialect. Sealed files, whose keys stay on this machine, it is
handed as Arrow tables: through memory, and encrypted where Spark spills to a disk. The change points are written beside
the view's file, and the process that drives Spark puts them into it in order, by the same statement as ever: so both
engines write the same bytes. Archive and features must be where driver and executors both see them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import duckdb
import pyarrow as pa

from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.features.engines.base import Batch, Engine
from aap.features.engines.dialects import SPARK, Dialect
from aap.features.errors import EngineUnavailable
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder, StoredFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkBatch", "address", "spark_engine", "spark_session", "spark_type", "why_unavailable"]

_JAVA = 17
_LOCAL = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.io.encryption.enabled": "true",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
_FEW_CORES = {
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
}
"""Spark's own are for clusters: on a few cores, 200 tasks of nothing, and a task for each day's folder to list it."""


def why_unavailable(master: str) -> str:
    """What to install before Spark can be used, in one sentence; empty if nothing."""
    try:
        import pyspark  # noqa: F401 - the extra may be missing
    except ImportError:
        return "Spark needs the package pyspark: run pip install 'pyspark>=4.0,<4.1'."
    if not master.startswith("sc://") and (found := _java_version()) < _JAVA:
        has = f"this machine has Java {found}" if found else "this machine has none"
        return f"Spark needs Java {_JAVA} or newer and {has}: install openjdk-17-jre-headless, or set JAVA_HOME."
    return ""


def spark_session(master: str) -> SparkSession:
    """The Spark session at `master` (a master URL, or a Spark Connect URL `sc://…`), started if there is none.

    Raises `EngineUnavailable` saying what to install, or that the master can't be reached.
    """
    if missing := why_unavailable(master):
        raise EngineUnavailable(missing)
    from pyspark.sql import SparkSession

    try:
        if master.startswith("sc://"):
            session = SparkSession.builder.remote(master).getOrCreate()
        else:
            builder = SparkSession.builder.master(master).appName("aap features")
            for name, value in _LOCAL.items() if master.startswith("local") else ():
                builder = builder.config(name, value)
            session = builder.getOrCreate()
        session.conf.set("spark.sql.session.timeZone", "UTC")
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise EngineUnavailable(f"Spark at {master} can't be used ({reason}); check AAP_SPARK_MASTER.") from error
    session.conf.set("spark.sql.ansi.enabled", "true")
    # A kept table stays partitioned as it was made, by entity, so that what reads it needs no shuffle.
    session.conf.set("spark.sql.optimizer.canChangeCachedPlanOutputPartitioning", "false")
    for name, value in _FEW_CORES.items() if master.startswith("local") else ():
        session.conf.set(name, value)
    return session


def spark_engine(session: SparkSession) -> Engine:
    """Computations by one Spark session, one at a time."""

    @contextmanager
    def begin() -> Iterator[Batch]:
        batch = SparkBatch(session)
        try:
            yield batch
        finally:
            batch.close()

    return begin


class SparkBatch:
    """Tables of one Spark session, kept in its memory (and on its disks) until closed."""

    dialect: Dialect = SPARK
    at_once: int = 64_000_000
    """About three million purchase lines: tables are few and large, since each costs a job to make."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session
        self._kept: dict[str, DataFrame] = {}
        self._scratch: list[Folder] = []
        self._connection: duckdb.DuckDBPyConnection | None = None

    def register(self, table: str, rows: pa.Table) -> None:
        """See `Batch`."""
        self._session.createDataFrame(rows).createOrReplaceTempView(f"arrow_{table}")
        self.make(table, f"SELECT {self.dialect.by_entity} * FROM arrow_{table}")

    def events(self, archive: Archive, event: str) -> str:
        """See `Batch`."""
        declared = ", ".join(f"{f.name} {spark_type(f.type)}" for f in event_type(event).arrow)
        found, session = archive.files(event), cast(Any, self._session)
        if archive.sealed(found):
            rows = session.createDataFrame(self._opened(archive, event, found), declared)
        else:
            files = [address(archive.folder, f.name) for f in found]
            rows = session.read.schema(declared).parquet(*files) if files else session.createDataFrame([], declared)
        rows.createOrReplaceTempView(f"archive_{event}")
        return f"archive_{event}"

    def _opened(self, archive: Archive, event: str, files: Sequence[StoredFile]) -> pa.Table:
        """The rows of files of which some are sealed. Without encryption, Spark would hand them over by an open file."""
        if self._session.conf.get("spark.io.encryption.enabled", "false") != "true" and not _is_remote(self._session):
            raise EngineUnavailable(
                "Spark would write the sealed archive's rows to a disk in the open: start it with "
                "spark.io.encryption.enabled=true."
            )
        with open_duckdb() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            names = ", ".join(event_type(event).arrow.names)
            rows = connection.execute(f"SELECT {names} FROM {archive.sql(event, on=connection, files=files)}")
            return rows.to_arrow_table()

    def make(self, table: str, select: str) -> None:
        """See `Batch`; computed when first read, then kept."""
        rows = self._session.sql(select).persist()
        if table in self._kept:
            self._kept[table].unpersist()
        self._kept[table] = rows
        rows.createOrReplaceTempView(table)

    def stacked(self, selects: Sequence[str]) -> str:
        """See `Batch`. Spark's SQL has no union by name, so the columns a query lacks are written out."""
        frames = [self._session.sql(select) for select in selects]
        columns = list(dict.fromkeys(c for f in frames for c in f.columns))
        whole = [f.selectExpr(*(_column(c, among=f.columns) for c in columns)) for f in frames]
        reduce(lambda a, b: a.unionAll(b), whole).createOrReplaceTempView("stacked")
        return f"SELECT {self.dialect.by_entity} * FROM stacked"

    def fetched(self, table: str, *, scratch: Folder) -> tuple[duckdb.DuckDBPyConnection, str]:
        """See `Batch`: written to `scratch` by the executors, read from there."""
        self._scratch.append(scratch)
        self._session.table(table).write.mode("overwrite").parquet(address(scratch))
        self._connection = self._connection or open_duckdb()
        self._connection.execute("SET TimeZone = 'UTC'")
        return self._connection, scratch.parquet((f.name for f in scratch.files()), on=self._connection)

    def part(self) -> AbstractContextManager[Batch]:
        """See `Batch`."""
        return spark_engine(self._session)()

    def close(self) -> None:
        """Let go of every table and remove what was written on the way."""
        for rows in self._kept.values():
            rows.unpersist()
        self._kept.clear()
        if self._connection is not None:
            self._connection.close()
        for folder in self._scratch:
            folder.clear()


def _is_remote(session: SparkSession) -> bool:
    """Whether it is a client of Spark Connect, which sends rows over the wire."""
    return type(session).__module__.startswith("pyspark.sql.connect")


def _column(name: str, *, among: Sequence[str]) -> str:
    if name in among:
        return name if name == "k" else f"{name}::BIGINT AS {name}"
    return f"NULL::BIGINT AS {name}"


def address(folder: Folder, name: str = "") -> str:
    """Where Spark finds it; on S3 by Hadoop's client, which the cluster must have (hadoop-aws)."""
    place = f"{folder.uri}/{name}" if name else folder.uri
    return f"file://{place}" if folder.path else place.replace("s3://", "s3a://", 1)


def spark_type(kind: pa.DataType) -> str:
    """What Spark calls a type of our columns."""
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    return {pa.string(): "STRING", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}[kind]


def _java_version() -> int:
    """Major version of the Java that Spark would start; 0 without one."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else "java"
    try:
        told = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(found[1]) if found else 0
