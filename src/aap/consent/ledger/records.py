"""Consent records: the shape of one, the table they lie in, and the bytes their Merkle leaves are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from aap.consent.errors import LedgerUnavailable
from aap.consent.policy import Choice, Status
from aap.consent.purposes import Purpose

__all__ = [
    "CHOICE",
    "GPC_METHOD",
    "METADATA",
    "RECORDS",
    "Entry",
    "Record",
    "append_only",
    "canonical",
    "choice_of",
    "fields_of",
    "micros",
    "record_of",
    "row_of",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

GPC_METHOD = "Sec-GPC"
"""How a record of the Global Privacy Control was indicated: *withdrawn* when it was set, *unknown* when it was lifted."""

METADATA = sa.MetaData()
RECORDS = sa.Table(
    "consent_records",
    METADATA,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("subject", sa.String(32), nullable=False, index=True),
    sa.Column("purpose", sa.String(64), nullable=False),
    sa.Column("status", sa.String(32), nullable=False),
    sa.Column("said_by", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("indicated_at", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("notice_version", sa.Text, nullable=False),
    sa.Column("notice_hash", sa.String(64), nullable=False),
    sa.Column("leaf", sa.LargeBinary(32), nullable=False),
    sa.UniqueConstraint("subject", "purpose", "status", "indicated_at", name="a_choice_is_recorded_once"),
)
CHOICE = tuple(
    RECORDS.c[name]
    for name in ("seq", "subject", "purpose", "status", "indicated_at", "expires_at", "method", "notice_version")
)
"""What the policy needs of a record."""
_PURPOSES = {p.value: p for p in Purpose}
_STATUSES = {s.value: s for s in Status}
_REFUSAL = "the consent ledger is append-only"
# INSERT OR REPLACE deletes without asking the trigger on DELETE; so a record may only be the next one, and a new one.
_NO_REPLACE = (
    "CREATE TRIGGER IF NOT EXISTS consent_no_replace BEFORE INSERT ON consent_records "
    "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM consent_records) OR EXISTS (SELECT 1 FROM consent_records "
    "WHERE subject = NEW.subject AND purpose = NEW.purpose AND status = NEW.status AND indicated_at = NEW.indicated_at) "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
)


def append_only(dialect: str) -> list[str]:
    """The statements that make a database of this kind refuse to change or delete anything of the ledger."""
    tables = sorted(METADATA.tables)
    if dialect == "sqlite":
        names = {t: "consent" if t == RECORDS.name else t for t in tables}
        return [_NO_REPLACE] + [
            f"CREATE TRIGGER IF NOT EXISTS {names[t]}_no_{what.lower()} BEFORE {what} ON {t} "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            for t in tables
            for what in ("UPDATE", "DELETE")
        ]
    if dialect == "postgresql":
        refuse = (
            "CREATE OR REPLACE FUNCTION consent_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
        return [refuse] + [
            f"CREATE OR REPLACE TRIGGER {t}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {t} "
            "FOR EACH STATEMENT EXECUTE FUNCTION consent_append_only()"
            for t in tables
        ]
    return []


@dataclass(frozen=True, slots=True)
class Entry:
    """A choice as it is handed in: who said what, how, when, and which notice they had read."""

    subject: str
    purpose: Purpose
    status: Status
    indicated_at: datetime
    said_by: str
    method: str
    notice_version: str = "1"
    notice_hash: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An entry with its place in the ledger."""

    seq: int
    entry: Entry
    received_at: datetime
    leaf: bytes


def canonical(row: Mapping[str, object]) -> bytes:
    """The bytes a leaf is made of: JSON with sorted keys, no spaces, times in microseconds."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fields_of(seq: int, entry: Entry, received_at: datetime) -> dict[str, object]:
    """A record's columns but its leaf."""
    return {
        "seq": seq,
        "subject": entry.subject,
        "purpose": entry.purpose.value,
        "status": entry.status.value,
        "said_by": entry.said_by,
        "method": entry.method,
        "indicated_at": micros(entry.indicated_at),
        "received_at": micros(received_at),
        "expires_at": None if entry.expires_at is None else micros(entry.expires_at),
        "notice_version": entry.notice_version,
        "notice_hash": entry.notice_hash or sha256(entry.notice_version.encode()).hexdigest(),
    }


def row_of(record: Record) -> dict[str, object]:
    """A record as it is written."""
    return {**fields_of(record.seq, record.entry, record.received_at), "leaf": record.leaf}


def choice_of(row: sa.Row[Any]) -> Choice:
    """What the policy needs of a record, read by `CHOICE` or whole; raises `LedgerUnavailable` where it was altered."""
    try:
        purpose = _PURPOSES.get(row.purpose) or Purpose(row.purpose)
        status = _STATUSES.get(row.status) or Status(row.status)
    except ValueError as error:
        raise LedgerUnavailable(f"Record {row.seq} of the consent ledger was altered: {error}.") from None
    expires_at = None if row.expires_at is None else _moment(row.expires_at)
    return Choice(row.subject, purpose, status, _moment(row.indicated_at), expires_at, row.method == GPC_METHOD)


def record_of(row: sa.Row[Any]) -> Record:
    """A record as it was read; raises `LedgerUnavailable` for one that nobody can have made."""
    choice = choice_of(row)
    entry = Entry(
        subject=choice.subject,
        purpose=choice.purpose,
        status=choice.status,
        indicated_at=choice.indicated_at,
        said_by=row.said_by,
        method=row.method,
        notice_version=row.notice_version,
        notice_hash=row.notice_hash,
        expires_at=choice.expires_at,
    )
    return Record(row.seq, entry, _moment(row.received_at), bytes(row.leaf))


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
