"""`aap bench build`: features of the whole Complete Journey year, by DuckDB, by Spark, and of ten such years' people.

The data is imported as the demo imports it, consent and all, into a temporary home. The larger archive has every person
several times, each copy with a key and events of its own and the person's choices. Each build starts from nothing, in a
process of its own; its time begins when consent is read and ends with the last file written, Spark's start included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from aap.config import Settings, load_settings
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.features.engines import batch_engine
from aap.features.engines.spark import why_unavailable
from aap.features.offline.build import Standing, build
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import Folder, archive_folder
from aap.infra.redis import connection as redis_connection
from benchmarks.support.child_process import Unfinished, measure_in_child
from benchmarks.support.environment import describe_machine
from pipelines.demo.complete_journey import SHOP_CLOSES
from pipelines.demo.story import Story

__all__ = ["BuildReport", "Line", "run"]


@dataclass(frozen=True, slots=True)
class Line:
    """One build of all views: `cpu_s` is of its process and all below it, and so is the peak of resident memory."""

    events: int
    change_points: int
    seconds: float
    cpu_s: float
    events_per_s: int
    peak_mb: int


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was measured; None where Spark can't run or a build took longer than the limit."""

    machine: str
    duckdb: Line
    spark: Line | None
    duckdb_x10: Line | None
    spark_skipped: str = ""

    @property
    def growth(self) -> float | None:
        """How much more CPU an event costs with ten times the events; 1 is in proportion."""
        if self.duckdb_x10 is None:
            return None
        return round((self.duckdb_x10.cpu_s / self.duckdb_x10.events) / (self.duckdb.cpu_s / self.duckdb.events), 2)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "growth": self.growth}


def run(
    *,
    copies: int = 10,
    one_in: int = 1,
    limit_s: float = 1_800.0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> BuildReport:
    """Measure; some minutes. `copies` is how many times the people of the larger archive are there.

    With `one_in` above 1 only every so many-th person takes part: quicker, but start-up weighs more than it should.
    """
    with TemporaryDirectory(prefix="aap-bench-") as folder:
        settings = _imported(Path(folder) / "home")
        progress(1, 5)
        plain = str(archive_folder(settings))
        if one_in > 1:
            plain = str(Path(folder) / "smaller")
            _sample(Archive(archive_folder(settings)), Archive(_archive(settings, plain)), one_in=one_in)
        one = _measured(settings.home, plain, "duckdb", 1, limit_s)
        progress(2, 5)
        skipped = why_unavailable(settings.spark_master)
        spark = None if skipped else _measured(settings.home, plain, "spark", 1, limit_s)
        progress(3, 5)
        larger = str(Path(folder) / "larger")
        _replicate(Archive(_archive(settings, plain)), Archive(_archive(settings, larger)), copies=copies)
        progress(4, 5)
        many = _measured(settings.home, larger, "duckdb", copies, limit_s)
        progress(5, 5)
    if one is None:
        raise RuntimeError(f"The build took longer than {limit_s:.0f} s.")
    return BuildReport(describe_machine(), one, spark, many, skipped)


def _imported(home: Path) -> Settings:
    """A home with the year imported, its clock set back to when the shop closed.

    The archive is left open, as where Spark reads it on a cluster: handed sealed rows it takes several times as long.
    """
    home.mkdir()
    shifted = f"AAP_CLOCK_SHIFT=-{(datetime.now(UTC) - SHOP_CLOSES).days}d"
    (home / "aap.env").write_text(f"{shifted}\nAAP_SEAL_ARCHIVE=false\n")
    settings = load_settings(home).model_copy(update={"redis_url": None, "data_uri": None})
    story = Story(settings)
    try:
        story.draw_choices(seed=0)
        for location, mapping in story.imports():
            story.bring_in(location, mapping, progress=lambda *_: None)
    finally:
        redis_connection.stop(settings)
    return settings


def _measured(home: Path, archive: str, engine: str, copies: int, limit_s: float) -> Line | None:
    try:
        found = measure_in_child(_build, home, archive, engine, copies, limit_s=limit_s)
    except Unfinished:
        return None
    events, rows, seconds, cpu = found.result
    return Line(events, rows, round(seconds, 2), round(cpu, 2), round(events / seconds), found.peak_mb)


def _build(home: Path, location: str, engine: str, copies: int) -> tuple[int, int, float, float]:
    """Events read, change points made, seconds, and seconds of CPU."""
    settings = load_settings(home)
    archive = Archive(_archive(settings, location))
    now = settings.now()
    standing = _copied(open_ledger(settings).standing(in_force_at=now), copies)
    with TemporaryDirectory(prefix="built-", dir=home) as folder:
        started, worked = time.perf_counter(), _worked()
        made = build(
            archive=archive,
            folder=Path(folder),
            standing=standing,
            as_of=now,
            engine=batch_engine(settings, name=engine),
        )
        seconds, cpu = time.perf_counter() - started, _worked() - worked
    return sum(archive.count(event) for event in archive.types()), sum(b.rows for b in made), seconds, cpu


def _worked() -> float:
    """CPU seconds of this process and those below it."""
    us = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (us, *us.children(recursive=True)))


def _copy(user_key: str, number: int) -> str:
    return md5(f"{user_key}{number}".encode(), usedforsecurity=False).hexdigest()


def _archive(settings: Settings, location: str) -> Folder:
    """The folder at `location` under the seal of this home's own archive."""
    return replace(Folder.at(location), seal=archive_folder(settings).seal)


def _copied(standing: Standing, copies: int) -> Standing:
    if copies == 1:
        return standing
    return {
        copy: {purpose: ([replace(g, subject=copy) for g in held], why) for purpose, (held, why) in by_purpose.items()}
        for key, by_purpose in standing.items()
        for copy in (_copy(key, number) for number in range(copies))
    }


def _sample(archive: Archive, smaller: Archive, *, one_in: int) -> None:
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        tables = {}
        for event in archive.types():
            tables[event] = f"sample_of_{event}"
            connection.execute(
                f"CREATE TEMP TABLE sample_of_{event} AS FROM {archive.sql(event, on=connection)} "
                f"WHERE hash(user_key) % {one_in} = 0"
            )
        smaller.append(connection, tables, batch="sample")


def _replicate(archive: Archive, larger: Archive, *, copies: int) -> None:
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for number in range(copies):
            tables = {}
            for event in archive.types():
                fields = ", ".join(f.name for f in event_type(event).fields)
                tables[event] = f"copy_of_{event}"
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE copy_of_{event} AS SELECT source, id || '-{number}' AS id, "
                    f"md5(user_key || '{number}') AS user_key, occurred_at, available_at, {fields} "
                    f"FROM {archive.sql(event, on=connection)}"
                )
            larger.append(connection, tables, batch=f"copy-{number}")
