"""Draining: what the log accepted goes into the archive, once, and is let go of.

A batch is judged again on its way: a choice made since it was accepted counts. Its files are named by its place in the
log. Killed in between, a drain begins again at the same place and writes the same files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from consent.ledger import Ledger
from events.admission import admissions
from events.archive import Archive
from events.log import PARTITIONS, REMEMBERED_US, Batch, EventLog
from events.logged import EventColumns
from events.schema import event_type
from storage.duck import open_duckdb

__all__ = ["LATE_US", "Admitted", "Drained", "drain"]

_MOST = 200
"""Entries taken at once."""

LATE_US = REMEMBERED_US - 86_400_000_000
"""The log no longer knows the id of an event that comes later than this after it happened: the archive is asked."""


@dataclass(slots=True)
class Drained:
    """What became of the events taken from the log."""

    archived: Counter[str] = field(default_factory=Counter)
    """By event type."""
    duplicates: int = 0
    refused: int = 0
    """Accepted once, but consent has ended since."""


class Admitted:
    """From when on whose events may be stored, by the ledger; read again when the ledger has grown or a grant has ended."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._size, self._made, self._until = -1, 0.0, 0.0
        self._since: dict[str, dict[str, float]] = {}

    def since(self, events: set[str], *, now: datetime) -> dict[str, dict[str, float]]:
        """By event type and person, in microseconds since 1970; whoever is missing isn't admitted."""
        size, at = self._ledger.size(), now.timestamp()
        if size != self._size or not self._made <= at < self._until:
            self._since = {}
        if wanted := events - self._since.keys():
            standing = self._ledger.standing()
            edges = [
                moment
                for by_purpose in standing.values()
                for grants, _ in by_purpose.values()
                for grant in grants
                for moment in (grant.start.timestamp(), grant.end.timestamp())
            ]
            self._size, self._made, self._until = size, at, min((e for e in edges if e > at), default=float("inf"))
            for event in sorted(wanted):
                found = admissions(standing, events=[event], now=now)
                self._since[event] = {a.subject: a.since.timestamp() * 1_000_000 for a in found if a.since is not None}
        return self._since


def drain(
    log: EventLog, archive: Archive, ledger: Ledger, *, now: datetime, admitted: Admitted | None = None
) -> Drained:
    """Empty the log into the archive. `admitted` may be kept from one time to the next."""
    done, admitted = Drained(), admitted or Admitted(ledger)
    for partition in range(PARTITIONS):
        while True:
            batch = log.take(partition, most=_MOST)
            if not batch.entries:
                break
            _drain(log, batch, archive, admitted.since(set(batch.events), now=now), done)
            log.let_go(batch)
    return done


def _drain(log: EventLog, batch: Batch, archive: Archive, since: dict[str, dict[str, float]], done: Drained) -> None:
    tables: dict[str, pa.Table] = {}
    unsure, name = log.imported_since(batch), f"log-{batch.partition}-{batch.first.decode()}"
    for event, ours in sorted(batch.events.items()):
        begun, nobody = since[event], float("inf")
        begins = np.array([begun.get(key, nobody) for key in ours.user_keys])
        kept = ours.chosen(begins <= ours.occurred)
        done.refused += len(ours) - len(kept)
        table = _table(kept)
        if unsure or (kept.available - kept.occurred > LATE_US).any():
            table = _unknown(table, event, archive=archive, name=name)
            done.duplicates += len(kept) - len(table)
        if len(table):
            tables[event] = table
            done.archived[event] += len(table)
    archive.append_tables(tables, batch=name)


def _table(events: EventColumns) -> pa.Table:
    declared = event_type(events.type)
    columns: dict[str, Any] = {
        "source": events.sources,
        "id": events.ids,
        "user_key": events.user_keys,
        "occurred_at": events.occurred,
        "available_at": events.available,
    }
    columns |= {f.name: events.column(f.name) for f in declared.fields}
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in declared.arrow})


def _unknown(table: pa.Table, event: str, *, archive: Archive, name: str) -> pa.Table:
    """What of `table` the archive doesn't have already, the files of a drain of the same name left aside."""
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        connection.register("asked", table)
        others = [f for f in archive.files(event) if f"/{name}-" not in f.name]
        known = archive.sql(event, on=connection, files=others)
        return connection.execute(
            f"SELECT * FROM asked ANTI JOIN {known} known ON known.source = asked.source AND known.id = asked.id"
        ).to_arrow_table()
