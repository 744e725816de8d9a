"""Somebody's table of consent choices, read into ledger entries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from consent.ledger import Entry
from consent.policy import Status
from consent.purposes import Purpose, UnknownPurpose, parse_purpose
from events.mapping import ConsentTable
from events.tables import Source
from security.pseudonyms import Pseudonyms

__all__ = ["ChoicesRead", "read_choices"]


@dataclass(frozen=True, slots=True)
class ChoicesRead:
    """Entries in the order they were indicated, and the rows that say nothing usable, by reason."""

    entries: list[Entry]
    rejected: Counter[str]


def read_choices(table: ConsentTable, source: Source, *, pseudonyms: Pseudonyms) -> ChoicesRead:
    """All choices in `source`. A row that can't be read grants nothing: it is counted, never guessed at."""
    entries: list[Entry] = []
    rejected: Counter[str] = Counter()
    for batch in source.batches:
        for user, purpose, status, at in zip(*(batch[c].to_pylist() for c in table.columns), strict=True):
            made = _entry(table, user, purpose, status, at, pseudonyms=pseudonyms)
            if isinstance(made, str):
                rejected[made] += 1
            else:
                entries.append(made)
    entries.sort(key=lambda e: (e.indicated_at, e.subject, e.purpose))
    return ChoicesRead(entries, rejected)


def _entry(
    table: ConsentTable, user: object, purpose: object, status: object, at: object, *, pseudonyms: Pseudonyms
) -> Entry | str:
    if user is None or not str(user).strip():
        return "consent row without a user"
    try:
        parsed_purpose: Purpose = parse_purpose(str(purpose))
        word = str(status).strip()
        parsed_status = table.statuses.get(word) or Status(word.lower())
        moment = _moment(at, table)
    except UnknownPurpose:
        return "consent row with an unknown purpose"
    except ValueError:
        return "consent row with an unknown status or time"
    key = pseudonyms.user_key(str(user).strip())
    return Entry(key, parsed_purpose, parsed_status, moment, "the person", table.method, table.notice_version)


def _moment(at: object, table: ConsentTable) -> datetime:
    if isinstance(at, datetime):
        moment = at
    elif table.time_format:
        moment = datetime.strptime(str(at), table.time_format)
    else:
        moment = datetime.fromisoformat(str(at).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(table.time_zone))).astimezone(UTC)
