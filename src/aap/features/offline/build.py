"""Building: from archived events to the offline values of every view, as Parquet.

`build` keeps the unbroken-grant rule for all views at once: of each person only the events since the start of the grant
that is in force at `as_of` are read, purpose by purpose. Only what changed since the last build is computed; the files are
byte for byte the ones that a build from nothing writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from aap.consent.policy import Grant, Reason
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.events.schema import event_type
from aap.features.declarations import Entity
from aap.features.engines.base import Batch, Engine, duckdb_engine
from aap.features.engines.dialects import Dialect
from aap.features.errors import DamagedValues
from aap.features.offline.change_points import build_change_points, event_table
from aap.features.offline.incremental import Due, due
from aap.features.offline.store import Inputs, OfflineValues, built_view, events_of, last_build
from aap.features.offline.writer import BUCKETS, ValuesWriter, record_inputs
from aap.features.views import View, all_views, columns_read
from aap.infra.atomic_files import explain_full_disk
from aap.infra.object_store import Folder, StoredFile

__all__ = [
    "Built",
    "Standing",
    "admit",
    "admit_events",
    "build",
    "build_one",
    "built_as_of",
    "built_moments",
    "current_spans",
    "write_view",
]

Standing = Mapping[str, Mapping[Purpose, tuple[list[Grant], Reason]]]


@dataclass(frozen=True, slots=True)
class Built:
    """What one build made of one view."""

    view: str
    rows: int
    entities: int
    computed: int
    """Of the entities, those whose values were computed; the others' were as they are."""
    seconds: float
    why: str = ""
    """Why everything was computed though there was a build before, in one sentence."""


def built_as_of(folder: Folder) -> datetime:
    """The moment that all views are known at, at least; raises `FeaturesNotBuilt` when one isn't built."""
    return min(built_view(folder, view).as_of for view in all_views())


def built_moments(folder: Folder) -> dict[str, datetime]:
    """The moment each view that was built is as of."""
    found = {view.name: last_build(folder, view) for view in all_views()}
    return {name: made.as_of for name, made in found.items() if made}


def current_spans(standing: Standing, purpose: Purpose, *, as_of: datetime) -> pa.Table:
    """`k`, `start` (microseconds): everyone with `purpose` granted at `as_of`, and since when without a break."""
    found = [  # of a crowd, so nothing is made that the garbage collector would have to look through
        grant
        for by_purpose in standing.values()
        for grant in by_purpose[purpose][0]
        if grant.start <= as_of < grant.end
    ]
    starts = pa.array([grant.start for grant in found], pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pa.table({"k": pa.array([grant.subject for grant in found], pa.string()), "start": starts})


def build(
    *,
    archive: Archive,
    folder: Folder | Path,
    standing: Standing,
    as_of: datetime,
    engine: Engine = duckdb_engine,
    anew: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Built]:
    """Compute every declared view as known at `as_of` by `engine` and write it below `folder`.

    The engines write the same files, byte for byte. `anew` computes everything whatever was built before. `progress` is
    called with (view, done, views in all). Raises `ArchiveDamaged` naming a file that can't be read.
    """
    held = archive.only(archive.files())  # what comes in meanwhile is for the next build
    made: list[Built] = []
    views = all_views()
    for done, view in enumerate(views):
        if progress:
            progress(view.name, done, len(views))
        made.append(
            build_one(view, archive=held, folder=folder, standing=standing, as_of=as_of, engine=engine, anew=anew)
        )
    if progress:
        progress("", len(views), len(views))
    return made


def admit_events(batch: Batch, view: View, *, archive: Archive, standing: Standing, as_of: datetime) -> None:
    """Make the tables `spans` and, for each event type the view reads, `event_table(...)`: only what the rule admits."""
    spans = current_spans(standing, view.purpose, as_of=as_of)
    admit(batch, view, archive=archive, spans=spans, as_of=as_of, columns=_all_columns)


def admit(
    batch: Batch,
    view: View,
    *,
    archive: Archive,
    spans: pa.Table,
    as_of: datetime,
    columns: Callable[[str], Sequence[str]],
    only: pa.Array | None = None,
    slices: int = 1,
) -> None:
    """The same from `current_spans`, with these columns of an event type beside `k`, `o` and `a`.

    With `only`, for these of the view's entities. With several `slices` the tables are called `whole_...`, and `slice` says
    which run of buckets an entity is in; rows of one slice lie together.
    """
    dialect, whole = batch.dialect, "whole_" if slices > 1 else ""
    occurred, latest = dialect.micros("e.occurred_at"), dialect.instant(as_of)
    wanted = part = ""
    if only is not None and view.entity is Entity.USER:
        spans = spans.filter(pc.is_in(spans["k"], value_set=only))
    elif only is not None:
        batch.register("due", pa.table({"k": only}))
        wanted = "AND e.item_id IN (SELECT k FROM due)"
    batch.register("granted" if whole else "spans", spans)
    if whole:
        part = f", {'spans.slice' if view.entity is Entity.USER else _slice_of('e.item_id', dialect, slices)} AS slice"
        batch.make("whole_spans", f"SELECT *, {_slice_of('k', dialect, slices)} AS slice FROM granted")
    for event in events_of(view):
        fields = "".join(f", {_column(name, dialect)}" for name in columns(event))
        admitted = (
            f"SELECT {dialect.by_entity} e.{view.key} AS k, {occurred} AS o, {dialect.micros('e.available_at')} AS a"
            f"{fields}{part} FROM {batch.events(archive, event)} e "
            f"JOIN {whole}spans spans ON spans.k = e.user_key AND {occurred} >= spans.start "
            f"WHERE e.available_at <= {latest} AND e.occurred_at <= {latest} {wanted}"
        )
        batch.make(whole + event_table(event), dialect.together(admitted, "slice") if whole else admitted)


def _all_columns(event: str) -> list[str]:
    return ["user_key", "hour", "weekday", *(f.name for f in event_type(event).fields), "source", "id"]


def _column(name: str, dialect: Dialect) -> str:
    told = {"hour": "hour(e.occurred_at) AS hour", "weekday": f"{dialect.weekday('e.occurred_at')} AS weekday"}
    return told.get(name, f"e.{name}")


def _slice_of(key: str, dialect: Dialect, slices: int) -> str:
    """The number of the slice an entity is in, as SQL."""
    return dialect.quotient(f"(instr('{BUCKETS}', left(md5({key}), 1)) - 1)", len(BUCKETS) // slices)


@contextmanager
def _slice(batch: Batch, view: View, number: int, *, slices: int) -> Iterator[Batch]:
    """A batch with the tables of `admit` for the entities of one slice alone."""
    if slices == 1:
        yield batch
        return
    with batch.part() as part:
        for table in (*map(event_table, events_of(view)), *(["spans"] if view.entity is Entity.USER else [])):
            part.make(table, f"SELECT * FROM whole_{table} WHERE slice = {number}")
        yield part


def write_view(batch: Batch, writer: ValuesWriter, view: View, *, scratch: Folder, buckets: str = BUCKETS) -> None:
    """Add to `writer` what the tables that `admit` makes come to."""
    build_change_points(batch, view, into="change_points")
    connection, table = batch.fetched("change_points", scratch=scratch)
    writer.add(connection, table, buckets=buckets)


def build_one(
    view: View,
    *,
    archive: Archive,
    folder: Folder | Path,
    standing: Standing,
    as_of: datetime,
    engine: Engine = duckdb_engine,
    anew: bool = False,
) -> Built:
    """Compute one view, as `build` does all."""
    started = time.perf_counter()
    place = Folder.at(folder)
    files = archive.files(*events_of(view))
    before = None if anew else last_build(place, view)
    inputs = Inputs(
        as_of,
        current_spans(standing, view.purpose, as_of=as_of),
        files,
        partly=archive.only(_unknown(files, before, as_of=as_of)).later_than(as_of),
    )
    try:
        work = due(view, before, archive=archive.only(files), inputs=inputs)
        values, computed = _carry_out(work, view, archive, before, place=place, inputs=inputs, engine=engine)
    except DamagedValues:
        work = Due(None, "Built anew: files of the last build are damaged.")
        values, computed = _carry_out(work, view, archive, None, place=place, inputs=inputs, engine=engine)
    return Built(view.name, values.rows, values.entities, computed, time.perf_counter() - started, work.why)


def _carry_out(
    work: Due,
    view: View,
    archive: Archive,
    before: OfflineValues | None,
    *,
    place: Folder,
    inputs: Inputs,
    engine: Engine,
) -> tuple[OfflineValues, int]:
    if before and work.entities is not None and not len(work.entities):
        return record_inputs(before, inputs), 0
    writer = ValuesWriter(view, folder=place, before=before, due=work.entities)
    held = archive.only(inputs.events)
    with explain_full_disk(place.uri):
        with engine() as batch:
            slices = _slices(inputs, at_once=batch.at_once) if work.entities is None else [BUCKETS]
            admit(
                batch, view, archive=held, spans=inputs.spans, as_of=inputs.as_of, columns=partial(columns_read, view),
                only=work.entities, slices=len(slices),
            )  # fmt: skip
            for number, buckets in enumerate(slices):
                with _slice(batch, view, number, slices=len(slices)) as part:
                    write_view(part, writer, view, scratch=place / f".{view.name}", buckets=buckets)
        return writer.finish(inputs), writer.computed


def _slices(inputs: Inputs, *, at_once: int) -> list[str]:
    """The buckets in as many runs as keep what is computed of at once to so many bytes of the archive's files."""
    wanted = sum(f.size for f in inputs.events) / at_once
    runs = next((n for n in (1, 2, 4, 8) if n >= wanted), len(BUCKETS))
    each = len(BUCKETS) // runs
    return [BUCKETS[first : first + each] for first in range(0, len(BUCKETS), each)]


def _unknown(files: list[StoredFile], before: OfflineValues | None, *, as_of: datetime) -> list[StoredFile]:
    """The files of which the last build does not tell whether all their events are known by `as_of`."""
    if before is None or as_of < before.as_of:
        return files
    told = {f for f in before.events if f.name not in before.partly}
    return [f for f in files if f not in told]
