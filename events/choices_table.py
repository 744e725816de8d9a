"""Somebody's table of consent choices, read into ledger entries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from consent.ledger import Entry
from consent.policy import Status
from consent.purposes import Purpose, UnknownPurpose, parse_purpose
from events.errors import MappingError
from events.mapping import ConsentTable
from events.people import People
from events.tables import Source
from security.pseudonyms import Pseudonyms

__all__ = ["ChoicesRead", "read_choices"]


@dataclass(frozen=True, slots=True)
class ChoicesRead:
    """Entries in the order they were indicated, and the rows that say nothing usable, by reason."""

    entries: list[Entry]
    rejected: Counter[str]


def read_choices(table: ConsentTable, source: Source, *, pseudonyms: Pseudonyms, now: datetime) -> ChoicesRead:
    """All choices in `source`. A row that can't be read grants nothing: it is counted, never guessed at.

    Raises `MappingError` for a time zone there isn't.
    """
    try:
        zone = ZoneInfo(table.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise MappingError(f"Unknown time zone {table.time_zone!r}; write one like Europe/Paris.") from None
    entries: list[Entry] = []
    rejected: Counter[str] = Counter()
    people = People(pseudonyms)
    for batch in source.batches:
        keys = people.keys(batch[table.user_id], name=table.user_id).to_pylist()
        for key, purpose, status, at in zip(keys, *(batch[c].to_pylist() for c in table.columns[1:]), strict=True):
            made = _entry(table, key, purpose, status, at, zone=zone, now=now)
            if isinstance(made, str):
                rejected[made] += 1
            else:
                entries.append(made)
    entries.sort(key=lambda e: (e.indicated_at, e.subject, e.purpose))
    return ChoicesRead(entries, rejected)


def _entry(
    table: ConsentTable, key: str | None, purpose: object, status: object, at: object, *, zone: ZoneInfo, now: datetime
) -> Entry | str:
    if key is None:
        return "consent row without a user"
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
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    elif table.time_format:
        moment = datetime.strptime(str(at).strip(), table.time_format)  # noqa: DTZ007 - the zone follows below
    else:
        moment = datetime.fromisoformat(str(at).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
