"""Building: from archived events to the offline values of every view, as Parquet.

`build` keeps the unbroken-grant rule for all views at once: of each person only the events since the start of the grant
that is in force at `as_of` are read, purpose by purpose. One file a view appears whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from consent.policy import Grant, Reason
from consent.purposes import Purpose
from events.archive import Archive
from events.schema import event_type
from feature_repo.batch import Batch, Engine, duckdb_engine
from feature_repo.change_points import build_change_points, event_table
from feature_repo.declare import Aggregate, Entity
from feature_repo.errors import FeaturesNotBuilt
from feature_repo.views import View, all_views
from storage.files import explain_full_disk

__all__ = [
    "Built",
    "Standing",
    "admit_events",
    "build",
    "build_one",
    "built_as_of",
    "built_view",
    "current_spans",
    "view_file",
    "write_view",
]

Standing = Mapping[str, Mapping[Purpose, tuple[list[Grant], Reason]]]


@dataclass(frozen=True, slots=True)
class Built:
    """What one build made of one view."""

    view: str
    rows: int
    entities: int
    seconds: float


def view_file(folder: Path, view: View) -> Path:
    """Where a view's values are."""
    return folder / view.name / "values.parquet"


def built_view(folder: Path, view: View) -> Path:
    """The view's file, made sure of; raises `FeaturesNotBuilt` when there is none or its declarations changed since."""
    file = view_file(folder, view)
    if not file.is_file():
        raise FeaturesNotBuilt(f"The features of {view.name} are not built yet; run `aap features build`.")
    try:
        made_by = (pq.read_schema(file).metadata or {}).get(b"aap.fingerprint", b"").decode()
    except (pa.ArrowInvalid, OSError) as error:
        raise FeaturesNotBuilt(f"{file} is damaged ({error}); run `aap features build` to make it anew.") from None
    if made_by != str(view.fingerprint):
        raise FeaturesNotBuilt(
            f"The features of {view.name} were built by other declarations; run `aap features build`."
        )
    return file


def built_as_of(folder: Path) -> datetime:
    """The moment that all views are known at, at least; raises `FeaturesNotBuilt` when one isn't built."""
    files = [built_view(folder, view) for view in all_views()]
    told = [(pq.read_schema(file).metadata or {})[b"aap.as_of"].decode() for file in files]
    return min(datetime.fromisoformat(moment) for moment in told)


def current_spans(standing: Standing, purpose: Purpose, *, as_of: datetime) -> pa.Table:
    """`k`, `start` (microseconds): everyone with `purpose` granted at `as_of`, and since when without a break."""
    found = [
        (subject, grant.start)
        for subject, by_purpose in standing.items()
        for grant in by_purpose[purpose][0]
        if grant.start <= as_of < grant.end
    ]
    starts = pa.array([start for _, start in found], pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pa.table({"k": pa.array([k for k, _ in found], pa.string()), "start": starts})


def build(
    *,
    archive: Archive,
    folder: Path,
    standing: Standing,
    as_of: datetime,
    engine: Engine = duckdb_engine,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Built]:
    """Compute every declared view as known at `as_of` by `engine` and write it below `folder`.

    The engines write the same files, byte for byte. `progress` is called with (view, done, views in all).
    """
    archive.check(archive.types())
    made: list[Built] = []
    views = all_views()
    for done, view in enumerate(views):
        if progress:
            progress(view.name, done, len(views))
        made.append(build_one(view, archive=archive, folder=folder, standing=standing, as_of=as_of, engine=engine))
    if progress:
        progress("", len(views), len(views))
    return made


def admit_events(batch: Batch, view: View, *, archive: Archive, standing: Standing, as_of: datetime) -> None:
    """Make the tables `spans` and, for each event type the view reads, `event_table(...)`: only what the rule admits."""
    dialect = batch.dialect
    occurred, latest = dialect.micros("e.occurred_at"), dialect.instant(as_of)
    batch.register("spans", current_spans(standing, view.purpose, as_of=as_of))
    for event in sorted({f.event for f in view.features if isinstance(f, Aggregate)}):
        fields = ", ".join(f.name for f in event_type(event).fields)
        key = "user_key" if view.entity is Entity.USER else "item_id"
        batch.make(
            event_table(event),
            f"SELECT {dialect.by_entity} e.{key} AS k, e.user_key, {occurred} AS o, {dialect.micros('e.available_at')} AS a, "
            f"hour(e.occurred_at) AS hour, {dialect.weekday('e.occurred_at')} AS weekday, "
            f"{fields}, e.source, e.id FROM {batch.events(archive, event)} e JOIN spans ON spans.k = e.user_key "
            f"AND {occurred} >= spans.start WHERE e.available_at <= {latest} AND e.occurred_at <= {latest}",
        )


def build_one(
    view: View, *, archive: Archive, folder: Path, standing: Standing, as_of: datetime, engine: Engine = duckdb_engine
) -> Built:
    """Compute one view, as `build` does all."""
    started = time.perf_counter()
    with engine() as batch:
        admit_events(batch, view, archive=archive, standing=standing, as_of=as_of)
        rows, entities = write_view(batch, view, folder=folder, as_of=as_of)
    return Built(view.name, rows, entities, time.perf_counter() - started)


def write_view(batch: Batch, view: View, *, folder: Path, as_of: datetime) -> tuple[int, int]:
    """Write the view's file from the tables that `admit_events` makes; returns its rows and entities."""
    file = view_file(folder, view)
    build_change_points(batch, view, into="change_points")
    with explain_full_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        connection, table = batch.fetched("change_points", scratch=file.with_suffix(".scratch"))
        _write(connection, table, view, file=file, as_of=as_of)
        rows, entities = connection.execute(f"SELECT count(*), count(DISTINCT k) FROM {table}").fetchall()[0]
    return rows, entities


def _write(connection: duckdb.DuckDBPyConnection, table: str, view: View, *, file: Path, as_of: datetime) -> None:
    temporary = file.with_suffix(".tmp")
    start = "make_timestamp(grant_start)::TIMESTAMPTZ AS grant_start, " if view.entity is Entity.USER else ""
    numbers = ", ".join(
        f"make_timestamp({f.name})::TIMESTAMPTZ AS {f.name}" if since else f.name
        for f, since in zip(view.numbers, view.since, strict=True)
    )
    connection.execute(
        f"COPY (SELECT k AS {view.key}, make_timestamp(moment)::TIMESTAMPTZ AS valid_from, {start}{numbers} "
        f"FROM {table} ORDER BY k, moment) TO '{str(temporary).replace(chr(39), chr(39) * 2)}' "
        "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 100000, "
        f"KV_METADATA {{'aap.fingerprint': '{view.fingerprint}', 'aap.as_of': '{as_of.isoformat()}'}})"
    )
    temporary.replace(file)
