"""The importer: brings somebody's history in, from any table a mapping describes.

Each batch of rows is typed, judged and stored by set operations in DuckDB. A row ends in one of four ways: accepted into
the archive; recognised as a duplicate; rejected with a reason, kept for replay; or refused for want of consent, counted
by reason and kept nowhere. Nothing appears in the archive before the whole source was read.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import numpy as np
import pyarrow as pa

from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.service import ConsentDesk
from aap.events.archive import Archive
from aap.events.dead_letter import Rejected, RejectedLog
from aap.events.errors import MappingError, SourceUnreadable
from aap.events.importing.admission import admissions
from aap.events.importing.batch_validation import Judge
from aap.events.importing.consent_table import NOBODY, read_choices
from aap.events.importing.mapping import ConsentTable, Mapping, resolve
from aap.events.importing.mapping_sql import ROW, USER_KEY, literal, quoted, translation
from aap.events.importing.readers import Source, open_source
from aap.events.importing.user_ids import People
from aap.events.item_catalog import update_catalogue
from aap.infra.atomic_files import explain_full_disk
from aap.infra.duckdb import open_duckdb
from aap.security.id_map import IdMap
from aap.security.pseudonyms import Pseudonyms

__all__ = ["ImportReport", "Importer", "Progress"]

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(slots=True)
class ImportReport:
    """What became of the rows of one import."""

    name: str
    rows: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    """By event type."""
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """By the consent reason."""
    choices: int = 0
    """Consent records added to the ledger."""
    items: int = 0
    """Items new in the catalogue."""
    malformed: list[tuple[int, str]] = field(default_factory=list)
    """Lines that are not rows at all: line number, what is wrong."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Importer:
    """Everything an import writes to."""

    archive: Archive
    rejected: RejectedLog
    desk: ConsentDesk
    pseudonyms: Pseudonyms
    id_map: IdMap
    catalogue: Path

    def run(
        self,
        location: str,
        mapping: Mapping,
        *,
        beside: Path,
        now: datetime,
        table: str | None = None,
        progress: Progress | None = None,
        door: str = "",
        keyed: bool = False,
    ) -> ImportReport:
        """Import the table at `location` as `mapping` (a file in folder `beside`) describes it.

        `door` names the mapping in the rejected log. With `keyed` the user column already holds user keys, as in a replay.
        Raises `SourceUnreadable` or `MappingError`; then nothing was stored but consent records.
        """
        started = time.perf_counter()
        source = open_source(resolve(location), mapping.columns, table=table or mapping.table)
        report = ImportReport(source.name, rows=source.rows)
        if mapping.items:
            self._items(source, mapping, report)
        elif mapping.choices is not None:
            self._choices(mapping.choices, source, now=now, report=report, door=door, keyed=keyed)
        else:
            with _connect(mapping) as connection:
                _load_lookups(connection, mapping, beside=beside)
                if not keyed:  # a replay rests on what the ledger says by now
                    self._consent(location, mapping, beside=beside, now=now, table=table, report=report, door=door)
                self._admit(connection, mapping, now=now)
                people = People(self.pseudonyms, keyed=keyed)
                self._events(connection, source, mapping, people, now=now, progress=progress, door=door, report=report)
        report.malformed = source.malformed
        report.seconds = time.perf_counter() - started
        return report

    def _items(self, source: Source, mapping: Mapping, report: ImportReport) -> None:
        for batch in source.batches:
            columns = {n: batch[v.column].cast(pa.string()) for n, v in mapping.fields.items() if v.column}
            report.items += update_catalogue(self.catalogue, pa.table(columns))[0]

    def _choices(
        self,
        table: ConsentTable,
        source: Source,
        *,
        now: datetime,
        report: ImportReport,
        door: str,
        keyed: bool = False,
    ) -> None:
        people = People(self.pseudonyms, keyed=keyed)
        found = read_choices(table, source, people=people, now=now, door=door)
        report.choices += len(self.desk.record_many(found.entries, received_at=now))
        report.rejected.update(r.reason for r in found.rejected)
        report.rejected.update({NOBODY: found.nobody} if found.nobody else {})
        self.rejected.add(found.rejected)

    def _consent(
        self,
        location: str,
        mapping: Mapping,
        *,
        beside: Path,
        now: datetime,
        table: str | None,
        report: ImportReport,
        door: str,
    ) -> None:
        """Put the choices this history rests on into the ledger."""
        assert mapping.consent is not None  # noqa: S101
        if mapping.consent.table is not None:
            choices = mapping.consent.table
            path = resolve(choices.path or "", beside=beside)
            rows = open_source(path, choices.columns, table=choices.table)
            self._choices(choices, rows, now=now, report=report, door=door)
        elif mapping.consent.grant is not None:
            self._stated(location, mapping, now=now, table=table, report=report)

    def _admit(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping, *, now: datetime) -> None:
        """Make the table `admitted`: who is admitted from when on."""
        assert mapping.event is not None  # noqa: S101
        events = [mapping.event, *([mapping.negative.event] if mapping.negative else [])]
        made = admissions(self.desk.ledger.standing(), events=events, now=now)
        admitted = pa.table(
            {
                "subject": pa.array([a.subject for a in made], pa.string()),
                "admitted_event": pa.array([a.event for a in made], pa.string()),
                "since": pa.array([a.since for a in made], pa.timestamp("us", tz="UTC")),
                "why": pa.array([a.reason.value for a in made], pa.string()),
            }
        )
        connection.register("admitted_now", admitted)
        connection.execute("CREATE TEMP TABLE admitted AS SELECT * FROM admitted_now")

    def _stated(
        self, location: str, mapping: Mapping, *, now: datetime, table: str | None, report: ImportReport
    ) -> None:
        grant = mapping.consent.grant if mapping.consent else None
        assert grant is not None  # noqa: S101
        assert mapping.user_id is not None  # noqa: S101
        people = People(self.pseudonyms)
        for batch in open_source(resolve(location), (mapping.user_id,), table=table or mapping.table).batches:
            people.keys(batch.column(0), name=mapping.user_id)
        at = grant.indicated_at if grant.indicated_at.tzinfo else grant.indicated_at.replace(tzinfo=ZoneInfo("UTC"))
        said_no = {(r.entry.subject, r.entry.purpose) for r in self.desk.ledger.records() if not r.entry.status.permits}
        entries = [
            Entry(key, p, Status.GIVEN, at, grant.by, f"stated for an import: {grant.basis}", grant.notice_version)
            for key in people.all_keys()
            for p in grant.purposes
            if (key, p) not in said_no  # nobody else's statement takes back what a person said themselves
        ]
        report.choices = len(self.desk.record_many(entries, received_at=now))

    def _events(
        self,
        connection: duckdb.DuckDBPyConnection,
        source: Source,
        mapping: Mapping,
        people: People,
        *,
        now: datetime,
        progress: Progress | None,
        door: str,
        report: ImportReport,
    ) -> None:
        judge = Judge(connection, mapping)
        for event in judge.events:
            self.archive.check([event])
            judge.load_known_ids(self.archive.sql(event, on=connection))
        select = translation(mapping, now=now)
        done = 0
        kept: list[Rejected] = []
        for batch in source.batches:
            connection.register("chunk_now", _chunk(batch, mapping, people, first=done))
            with explain_full_disk(self.archive.folder.uri), _untypeable(source):
                # Copied into a table first: over one of its own tables DuckDB shares the judging between threads.
                connection.execute("CREATE OR REPLACE TEMP TABLE chunk AS SELECT * FROM chunk_now")
                counts = judge.judge(select)
                kept += judge.rejected_rows(door=door, at=now) if counts.rejected else []
            report.duplicates += counts.duplicates
            report.refused.update(counts.refused)
            report.rejected.update(counts.rejected)
            done += len(batch)
            if progress:
                progress(done, source.rows)
        accepted = {event: count for event in judge.events if (count := judge.accepted(event))}
        self.id_map.remember(people.ids(judge.accepted_people()))
        # The name is new each time: two files imported at one moment are two batches, and neither replaces the other.
        batch_name = f"{now:%Y%m%dT%H%M%S%f}-{re.sub(r'[^A-Za-z0-9]+', '_', mapping.source)}-{secrets.token_hex(4)}"
        self.archive.append(connection, {event: judge.table(event) for event in accepted}, batch=batch_name)
        report.accepted.update(accepted)
        if kept:
            self.rejected.add(kept)


def _chunk(batch: pa.Table, mapping: Mapping, people: People, *, first: int) -> pa.Table:
    """`batch` with numbered rows and user keys."""
    assert mapping.user_id is not None  # noqa: S101
    numbered = batch.append_column(ROW, pa.array(np.arange(first, first + len(batch))))
    return numbered.append_column(USER_KEY, people.keys(batch[mapping.user_id], name=mapping.user_id))


@contextmanager
def _untypeable(source: Source) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)):
            raise
        # Its message may quote a row, so it is not passed on.
        raise SourceUnreadable(
            f"The rows of {source.name} can't be read as the mapping says ({type(error).__name__}): check the columns' kinds."
        ) from None


def _connect(mapping: Mapping) -> duckdb.DuckDBPyConnection:
    try:
        ZoneInfo(mapping.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise MappingError(f"Unknown time zone {mapping.time_zone!r}; write one like Europe/Paris.") from None
    connection = open_duckdb()
    # Rows carry their number, so DuckDB may handle them in any order.
    connection.execute(f"SET TimeZone = {literal(mapping.time_zone)}; SET preserve_insertion_order = false")
    if mapping.time_format not in (None, "epoch", "epoch_ms"):
        try:
            connection.execute(f"SELECT try_strptime('', {literal(mapping.time_format or '')})")
        except duckdb.Error:
            raise MappingError(
                f"The time format {mapping.time_format!r} can't be used; write one like %d/%m/%Y %H:%M."
            ) from None
    return connection


def _load_lookups(connection: duckdb.DuckDBPyConnection, mapping: Mapping, *, beside: Path) -> None:
    for name, lookup in mapping.lookups.items():
        key = lookup.key or lookup.by
        values = (v for v in (*mapping.fields.values(), mapping.occurred_at) if v and v.lookup == name)
        columns = tuple(dict.fromkeys((key, *(v.column for v in values if v.column))))
        source = open_source(resolve(lookup.path, beside=beside), columns, table=lookup.table)
        connection.register("lookup_now", pa.concat_tables(list(source.batches), promote_options="permissive"))
        table = quoted(f"lookup_{name}")
        connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM lookup_now WHERE {quoted(key)} IS NOT NULL")
        doubled = connection.execute(f"SELECT count(*) - count(DISTINCT {quoted(key)}) FROM {table}").fetchall()[0][0]
        if doubled:
            raise SourceUnreadable(
                f"The lookup {name!r} has {doubled} rows whose {key!r} is there already; make it unique."
            )
