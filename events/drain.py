"""Draining: what the log accepted goes into the archive, once, and is let go of.

A batch is judged again on its way: a choice made since it was accepted counts. Killed in between, the same batch is taken
again and recognised by the ids that the archive has.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa

from consent.ledger import Ledger
from events.admission import admissions
from events.archive import Archive
from events.log import PARTITIONS, EventLog, LoggedEvent
from events.schema import event_type

__all__ = ["Drained", "drain"]

_MOST = 20_000


@dataclass(slots=True)
class Drained:
    """What became of the events taken from the log."""

    archived: Counter[str] = field(default_factory=Counter)
    """By event type."""
    duplicates: int = 0
    refused: int = 0
    """Accepted once, but consent has ended since."""


def drain(log: EventLog, archive: Archive, ledger: Ledger, *, now: datetime) -> Drained:
    """Empty the log into the archive."""
    done = Drained()
    standing = None
    for partition in range(PARTITIONS):
        while True:
            batch = log.take(partition, most=_MOST)
            if not batch.events:
                break
            standing = ledger.standing() if standing is None else standing
            for event in sorted({e.type for e in batch.events}):
                since = {a.subject: a.since for a in admissions(standing, events=[event], now=now)}
                ours = [e for e in batch.events if e.type == event]
                kept = [e for e in ours if _admitted(e, since.get(e.user_key))]
                done.refused += len(ours) - len(kept)
                name = f"log-{partition}-{batch.places[0].decode()}"
                archived = _archive(kept, event, archive=archive, name=name)
                done.archived[event] += archived
                done.duplicates += len(kept) - archived
            log.let_go(batch)
    return done


def _admitted(event: LoggedEvent, since: datetime | None) -> bool:
    return since is not None and since.timestamp() * 1_000_000 <= event.occurred_at


def _archive(events: list[LoggedEvent], event: str, *, archive: Archive, name: str) -> int:
    """Append what the archive doesn't have yet; returns how many that were."""
    if not events:
        return 0
    schema = event_type(event).arrow
    columns: dict[str, list[object]] = {
        "source": [e.source for e in events],
        "id": [e.id for e in events],
        "user_key": [e.user_key for e in events],
        "occurred_at": [e.occurred_at for e in events],
        "available_at": [e.available_at for e in events],
    }
    columns |= {f.name: [e.fields.get(f.name) for e in events] for f in event_type(event).fields}
    table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("taken", table)
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT * FROM taken WHERE (source, id) NOT IN "
            f"(SELECT (source, id) FROM {archive.sql(event, on=connection)}) "
            "QUALIFY row_number() OVER (PARTITION BY source, id ORDER BY available_at) = 1"
        )
        count = int(connection.execute("SELECT count(*) FROM fresh").fetchall()[0][0])
        if count:
            archive.append(connection, {event: "fresh"}, batch=name)
    return count
