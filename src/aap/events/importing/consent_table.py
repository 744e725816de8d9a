"""Somebody's table of consent choices, read into ledger entries.

A row that can't be read grants nothing and is rejected with its reason: kept, under the person's pseudonym, until it is
replayed. Only a row of nobody is counted and kept nowhere, for nobody could ever have it erased.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose, UnknownPurpose, parse_purpose
from aap.events.dead_letter import Rejected
from aap.events.errors import MappingError
from aap.events.importing.mapping import ConsentTable
from aap.events.importing.readers import Source
from aap.events.importing.user_ids import People
from aap.infra.timestamps import EPOCH

__all__ = ["CHOICE", "NOBODY", "ChoicesRead", "read_choices"]

CHOICE = "consent choice"
"""What a rejected row of a consent table is called in the rejected log."""
NOBODY = "consent row without a user"
"""Why a row that names nobody is rejected."""


@dataclass(frozen=True, slots=True)
class ChoicesRead:
    """Entries in the order they were indicated, the rows that say nothing usable, and how many name nobody."""

    entries: list[Entry]
    rejected: list[Rejected]
    nobody: int


def read_choices(table: ConsentTable, source: Source, *, people: People, now: datetime, door: str) -> ChoicesRead:
    """All choices in `source`. A row that can't be read is never guessed at; `door` names the mapping it came by.

    Raises `MappingError` for a time zone there isn't.
    """
    try:
        zone = ZoneInfo(table.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise MappingError(f"Unknown time zone {table.time_zone!r}; write one like Europe/Paris.") from None
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    nobody = 0
    for batch in source.batches:
        keys = people.keys(batch[table.user_id], name=table.user_id).to_pylist()
        for key, *told in zip(keys, *(batch[c].to_pylist() for c in table.columns[1:]), strict=True):
            if key is None:
                nobody += 1
                continue
            made = _entry(table, key, *told, zone=zone, now=now)
            if isinstance(made, str):
                shown = (None if v is None else str(v) for v in told)
                payload = dict(zip(table.columns, (key, *shown), strict=True))
                rejected.append(Rejected(door, CHOICE, made, key, payload, now))
            else:
                entries.append(made)
    entries.sort(key=lambda e: (e.indicated_at, e.subject, e.purpose))
    return ChoicesRead(entries, rejected, nobody)


def _entry(
    table: ConsentTable, key: str, purpose: object, status: object, at: object, *, zone: ZoneInfo, now: datetime
) -> Entry | str:
    try:
        parsed_purpose: Purpose = parse_purpose(str(purpose).strip())
        word = str(status).strip()
        parsed_status = table.statuses.get(word) or Status(word.lower())
        moment = _moment(at, table, zone)
    except UnknownPurpose:
        return "consent row with an unknown purpose"
    except (ValueError, OverflowError):
        return "consent row with an unknown status or time"
    if moment > now:
        return "consent row dated in the future"
    return Entry(key, parsed_purpose, parsed_status, moment, "the person", table.method, table.notice_version)


def _moment(at: object, table: ConsentTable, zone: ZoneInfo) -> datetime:
    if isinstance(at, datetime):
        moment = at
    elif table.time_format in ("epoch", "epoch_ms"):
        seconds = float(str(at)) / (1_000 if table.time_format == "epoch_ms" else 1)
        moment = EPOCH + timedelta(seconds=seconds)
    elif table.time_format:
        moment = datetime.strptime(str(at).strip(), table.time_format)  # noqa: DTZ007 - the zone follows below
    else:
        moment = datetime.fromisoformat(str(at).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
