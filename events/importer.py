"""The importer: brings somebody's history in, from any table a mapping describes.

Each batch of rows is typed, judged and stored by set operations in DuckDB. A row ends in one of four ways: accepted into
the archive; recognised as a duplicate; rejected with a reason, kept for replay; or refused for want of consent, counted
by reason and kept nowhere. Nothing appears in the archive before the whole source was read.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import pyarrow as pa

from consent.choices import ConsentDesk
from consent.ledger import Entry
from consent.policy import Status
from events.admission import admissions
from events.archive import Archive
from events.catalogue import update_catalogue
from events.choices_table import read_choices
from events.errors import MappingError, SourceUnreadable
from events.judge import Judge
from events.mapping import ConsentTable, Mapping, resolve
from events.rejected import Rejected, RejectedLog
from events.tables import Source, open_source
from events.translate import literal, quoted, translation
from security.id_map import IdMap
from security.pseudonyms import Pseudonyms

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
            self._choices(mapping.choices, source, now=now, report=report)
        else:
            with _connect(mapping) as connection:
                _load_lookups(connection, mapping, beside=beside)
                people = self._consent(connection, location, mapping, beside=beside, now=now, table=table, report=report)
                judge = Judge(connection, mapping, pseudonyms=self.pseudonyms, keyed=keyed, known=people)
                self._events(connection, source, mapping, judge, now=now, progress=progress, door=door, report=report)
        report.malformed = source.malformed
        report.seconds = time.perf_counter() - started
        return report

    def _items(self, source: Source, mapping: Mapping, report: ImportReport) -> None:
        for batch in source.batches:
            columns = {n: batch[v.column].cast(pa.string()) for n, v in mapping.fields.items() if v.column}
            report.items += update_catalogue(self.catalogue, pa.table(columns))[0]

    def _choices(self, table: ConsentTable, source: Source, *, now: datetime, report: ImportReport) -> None:
        found = read_choices(table, source, pseudonyms=self.pseudonyms)
        report.choices += len(self.desk.record_many(found.entries, received_at=now))
        report.rejected.update(found.rejected)

    def _consent(
        self,
        connection: duckdb.DuckDBPyConnection,
        location: str,
        mapping: Mapping,
        *,
        beside: Path,
        now: datetime,
        table: str | None,
        report: ImportReport,
    ) -> dict[str, str]:
        """Put the choices this history rests on into the ledger, then load who is admitted from when on."""
        assert mapping.consent is not None and mapping.event is not None and mapping.user_id is not None  # noqa: S101
        keys: dict[str, str] = {}
        if mapping.consent.table is not None:
            choices = mapping.consent.table
            path = resolve(choices.path or "", beside=beside)
            self._choices(choices, open_source(path, choices.columns), now=now, report=report)
        elif mapping.consent.grant is not None:
            keys = self._stated(location, mapping, now=now, table=table, report=report)
        events = [mapping.event, *([mapping.negative.event] if mapping.negative else [])]
        made = admissions(self.desk.ledger.standing(), events=events, now=now)
        admitted = pa.table(
            {
                "subject": [a.subject for a in made],
                "admitted_event": [a.event for a in made],
                "since": pa.array([a.since for a in made], pa.timestamp("us", tz="UTC")),
                "why": [a.reason.value for a in made],
            }
        )
        connection.register("admitted_now", admitted)
        connection.execute("CREATE TEMP TABLE admitted AS SELECT * FROM admitted_now")
        return keys

    def _stated(
        self, location: str, mapping: Mapping, *, now: datetime, table: str | None, report: ImportReport
    ) -> dict[str, str]:
        grant = mapping.consent.grant if mapping.consent else None
        assert grant is not None and mapping.user_id is not None  # noqa: S101
        people: set[str] = set()
        for batch in open_source(resolve(location), (mapping.user_id,), table=table or mapping.table).batches:
            people.update(str(v).strip() for v in batch.column(0).unique().to_pylist() if v is not None)
        people.discard("")
        keys = dict(zip(sorted(people), self.pseudonyms.user_keys(sorted(people)), strict=True))
        at = grant.indicated_at if grant.indicated_at.tzinfo else grant.indicated_at.replace(tzinfo=ZoneInfo("UTC"))
        entries = [
            Entry(key, p, Status.GIVEN, at, grant.by, f"stated for an import: {grant.basis}", grant.notice_version)
            for key in keys.values()
            for p in grant.purposes
        ]
        report.choices = len(self.desk.record_many(entries, received_at=now))
        return keys

    def _events(
        self,
        connection: duckdb.DuckDBPyConnection,
        source: Source,
        mapping: Mapping,
        judge: Judge,
        *,
        now: datetime,
        progress: Progress | None,
        door: str,
        report: ImportReport,
    ) -> None:
        for event in judge.events:
            self.archive.check([event])
            judge.load_known_ids(self.archive.sql(event))
        select = translation(mapping, now=now)
        done = 0
        kept: list[Rejected] = []
        for batch in source.batches:
            connection.register("chunk_now", batch)
            connection.execute(
                "CREATE OR REPLACE TEMP TABLE chunk AS SELECT row_number() OVER () AS row, * FROM chunk_now"
            )
            counts = judge.judge(select)
            report.duplicates += counts.duplicates
            report.refused.update(counts.refused)
            report.rejected.update(counts.rejected)
            kept += judge.rejected_rows(door=door, at=now)
            done += len(batch)
            if progress:
                progress(done, source.rows)
        batch_name = f"{now:%Y%m%dT%H%M%S%f}-{re.sub(r'[^A-Za-z0-9]+', '_', mapping.source)}"
        self.id_map.remember(judge.accepted_people())
        for event in judge.events:
            count = judge.accepted(event)
            if count:
                self.archive.append(connection, judge.table(event), event=event, batch=batch_name)
                report.accepted[event] += count
        if kept:
            self.rejected.add(kept)


def _connect(mapping: Mapping) -> duckdb.DuckDBPyConnection:
    try:
        ZoneInfo(mapping.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise MappingError(f"Unknown time zone {mapping.time_zone!r}; write one like Europe/Paris.") from None
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = {literal(mapping.time_zone)}; SET preserve_insertion_order = true")
    return connection


def _load_lookups(connection: duckdb.DuckDBPyConnection, mapping: Mapping, *, beside: Path) -> None:
    for name, lookup in mapping.lookups.items():
        key = lookup.key or lookup.by
        wanted = [v.column for v in (*mapping.fields.values(), mapping.occurred_at) if v and v.lookup == name]
        source = open_source(resolve(lookup.path, beside=beside), tuple(dict.fromkeys((key, *wanted))))
        connection.register("lookup_now", pa.concat_tables(list(source.batches)))
        table = quoted(f"lookup_{name}")
        connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM lookup_now WHERE {quoted(key)} IS NOT NULL")
        doubled = connection.execute(f"SELECT count(*) - count(DISTINCT {quoted(key)}) FROM {table}").fetchall()[0][0]
        if doubled:
            raise SourceUnreadable(f"The lookup {name!r} has {doubled} rows whose {key!r} is there already; make it unique.")


