"""Draining: what the log accepted goes into the archive, once, and is let go of.

A batch is judged again on its way: a choice made since it was accepted counts. Its files are named by its place in the
log. Killed in between, a drain begins again at the same place and writes the same files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any

import numpy as np
import pyarrow as pa

from aap.consent.ledger.ledger import Ledger
from aap.consent.policy import FOREVER
from aap.consent.purposes import Purpose
from aap.events.archive import Archive
from aap.events.importing.admission import since_when
from aap.events.schema import event_type
from aap.events.streaming.columns import EventColumns
from aap.events.streaming.event_log import PARTITIONS, REMEMBERED_US, Batch, EventLog
from aap.infra.duckdb import open_duckdb
from aap.infra.timestamps import from_micros

__all__ = ["LATE_US", "Admitted", "Drained", "drain"]

_MOST = 200
"""Entries taken at once."""

_ASKED = 5_000
"""People looked up in the ledger at once."""

_SET_BACK = timedelta(minutes=1)
"""A clock that is behind by less stands still: those of several machines differ, and events come in no order of theirs."""

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
    """From when on whose events may be stored, by the ledger.

    Kept from one drain to the next: everybody is read once, and again when a notice was published or the clock was set back;
    else only those who made a choice meanwhile, or whose grant began or ended.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._size, self._at = -1, FOREVER
        self._notices: list[str] = []
        self._since: dict[tuple[Purpose, ...], dict[str, float]] = {}
        """By the purposes of an event type: types that share them share it."""
        self._edges: list[tuple[float, str]] = []
        """When something changes by itself, and for whom, the next first."""

    def since(self, events: set[str], *, now: datetime) -> dict[str, dict[str, float]]:
        """By event type and person, in microseconds since 1970; whoever is missing isn't admitted."""
        size, notices = self._ledger.size(), [n.version for n in self._ledger.notices()]
        forgotten = now < self._at - _SET_BACK
        at = now if forgotten else max(now, self._at)
        self._at = FOREVER  # what is interrupted is begun from nothing
        kinds = {event: event_type(event).purposes for event in events}
        if set(kinds.values()) - self._since.keys() or notices != self._notices or size < self._size or forgotten:
            self._since, self._edges = {kind: {} for kind in {*kinds.values(), *self._since}}, []
            after = ""
            while some := self._ledger.subjects(after=after, most=_ASKED):
                self._read(some, now=at)
                after = some[-1]
        else:
            again = {r.entry.subject for r in self._ledger.records(after=self._size)} if size > self._size else set()
            while self._edges and self._edges[0][0] <= at.timestamp():
                again.add(heappop(self._edges)[1])
            asked = sorted(again)
            for first in range(0, len(asked), _ASKED):
                self._read(asked[first : first + _ASKED], now=at)
        self._size, self._notices, self._at = size, notices, at
        return {event: self._since[kind] for event, kind in kinds.items()}

    def _read(self, subjects: Sequence[str], *, now: datetime) -> None:
        """Judge these people by what the ledger says now."""
        standing = self._ledger.standing(subjects=subjects, purposes={p for kind in self._since for p in kind})
        for kind, held in self._since.items():
            for subject, by_purpose in standing.items():
                since = since_when(by_purpose, kind, now=now)
                if since is None:
                    held.pop(subject, None)
                else:
                    held[subject] = since.timestamp() * 1_000_000
        for subject, by_purpose in standing.items():
            spans = [grant for grants, _ in by_purpose.values() for grant in grants]
            moments = [moment for grant in spans for moment in (grant.start, grant.end) if now < moment < FOREVER]
            if moments:
                heappush(self._edges, (min(moments).timestamp(), subject))


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
            # Events are accepted while this goes on, under choices made since it began.
            newest = max(columns.available.max() for columns in batch.events.values())
            at = max(now, from_micros(int(newest)))
            _drain(log, batch, archive, admitted.since(set(batch.events), now=at), done)
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
