"""The consent ledger: an append-only list of choices, one record a subject × purpose × change.

The ledger says what was chosen; `consent.policy` says what follows. Records are numbered from 1 without gaps and each has
a Merkle leaf, so a checkpoint (size, root) fixes everything before it. The database itself refuses UPDATE and DELETE.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from consent import merkle
from consent.errors import LedgerUnavailable, UnusableChoice
from consent.policy import LONGEST_GRANT, Choice, Grant, Reason, Status, grants
from consent.purposes import Purpose

__all__ = ["Checkpoint", "Entry", "Ledger", "Record"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_metadata = sa.MetaData()
_records = sa.Table(
    "consent_records",
    _metadata,
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
_SIZE = sa.select(sa.func.coalesce(sa.func.max(_records.c.seq), 0))
_SQLITE_APPEND_ONLY = (
    "CREATE TRIGGER IF NOT EXISTS consent_no_update BEFORE UPDATE ON consent_records "
    "BEGIN SELECT RAISE(ABORT, 'the consent ledger is append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS consent_no_delete BEFORE DELETE ON consent_records "
    "BEGIN SELECT RAISE(ABORT, 'the consent ledger is append-only'); END",
    # INSERT OR REPLACE deletes without asking the trigger above; so a record may only be the next one, and a new one.
    "CREATE TRIGGER IF NOT EXISTS consent_no_replace BEFORE INSERT ON consent_records "
    "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM consent_records) OR EXISTS (SELECT 1 FROM consent_records "
    "WHERE subject = NEW.subject AND purpose = NEW.purpose AND status = NEW.status AND indicated_at = NEW.indicated_at) "
    "BEGIN SELECT RAISE(ABORT, 'the consent ledger is append-only'); END",
)


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

    @property
    def choice(self) -> Choice:
        """What the policy needs of it."""
        e = self.entry
        return Choice(e.subject, e.purpose, e.status, e.indicated_at, e.expires_at)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The ledger's state: the number of records and the Merkle root over them (hex)."""

    size: int
    root: str


class Ledger:
    """The ledger in one SQL database (SQLite by default, any SQLAlchemy URL)."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        if self._engine.dialect.name == "sqlite":
            # SQLAlchemy must not open transactions by itself: appends take the write lock first (BEGIN IMMEDIATE).
            sa.event.listen(self._engine, "connect", _sqlite_pragmas)
        with _unavailable(url):
            _metadata.create_all(self._engine)
            if self._engine.dialect.name == "sqlite":
                with self._engine.begin() as connection:
                    for statement in _SQLITE_APPEND_ONLY:
                        connection.execute(sa.text(statement))

    @classmethod
    def at(cls, path: Path) -> Ledger:
        """The ledger in the SQLite file at `path`, made if missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}")

    def append(self, entries: Sequence[Entry], *, received_at: datetime) -> list[Record]:
        """Append `entries` in order and return the records made; a choice already recorded is left out.

        Raises `UnusableChoice` (and appends nothing) when an entry was indicated after it was received or expires later
        than 13 months on.
        """
        for entry in entries:
            _check(entry, received_at=received_at)
        with _unavailable(str(self._engine.url)), self._exclusive() as connection:
            known = self._known(connection, {e.subject for e in entries})
            seq = connection.execute(_SIZE).scalar_one()
            made: list[Record] = []
            for entry in entries:
                key = (entry.subject, entry.purpose.value, entry.status.value, _micros(entry.indicated_at))
                if key in known:
                    continue
                known.add(key)
                seq += 1
                made.append(
                    Record(seq, entry, received_at, merkle.leaf_hash(_canonical(_fields(seq, entry, received_at))))
                )
            if made:
                connection.execute(sa.insert(_records), [_row(r) for r in made])
        return made

    def history(self, subject: str) -> list[Record]:
        """Everything `subject` chose, in ledger order."""
        return list(self._select(_records.c.subject == subject))

    def records(self, *, after: int = 0) -> Iterator[Record]:
        """All records with `seq > after`, in order."""
        return self._select(_records.c.seq > after)

    def size(self) -> int:
        """Number of records."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(_SIZE).scalar_one()

    def checkpoint(self) -> Checkpoint:
        """Size and Merkle root now."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            leaves = connection.execute(sa.select(_records.c.leaf).order_by(_records.c.seq)).scalars().all()
        return Checkpoint(len(leaves), merkle.root(leaves).hex())

    def first_altered(self) -> int | None:
        """The `seq` of the first record whose content no longer gives its leaf, or that is missing; None if all hold."""
        for expected, row in enumerate(self._rows(sa.true()), start=1):
            told = dict(row._mapping)
            leaf = bytes(told.pop("leaf"))
            if told["seq"] != expected or merkle.leaf_hash(_canonical(told)) != leaf:
                return expected
        return None

    def standing(
        self, *, subjects: Iterable[str] | None = None
    ) -> dict[str, dict[Purpose, tuple[list[Grant], Reason]]]:
        """Every known subject's grants (and the reason outside of them) for every purpose."""
        found = self._select(sa.true()) if subjects is None else self._select(_records.c.subject.in_(list(subjects)))
        choices: dict[str, dict[Purpose, list[Choice]]] = defaultdict(lambda: defaultdict(list))
        for record in found:
            choices[record.entry.subject][record.entry.purpose].append(record.choice)
        return {
            subject: {p: grants(by_purpose.get(p, ()), subject=subject, purpose=p) for p in Purpose}
            for subject, by_purpose in choices.items()
        }

    def _select(self, where: sa.ColumnElement[bool]) -> Iterator[Record]:
        return (_record(row) for row in self._rows(where))

    def _rows(self, where: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(sa.select(_records).where(where).order_by(_records.c.seq)).all()

    @contextmanager
    def _exclusive(self) -> Iterator[sa.Connection]:
        """A transaction that no other append can interleave with."""
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.text("LOCK TABLE consent_records IN EXCLUSIVE MODE"))
            yield connection
            connection.commit()

    @staticmethod
    def _known(connection: sa.Connection, subjects: set[str]) -> set[tuple[str, str, str, int]]:
        columns = (_records.c.subject, _records.c.purpose, _records.c.status, _records.c.indicated_at)
        query = sa.select(*columns)
        if len(subjects) <= 500:
            query = query.where(_records.c.subject.in_(subjects))
        return {(r[0], r[1], r[2], r[3]) for r in connection.execute(query)}


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except (sa.exc.ArgumentError, ModuleNotFoundError):
        raise LedgerUnavailable(
            f"The ledger's URL {url.split(':')[0]!r}:… can't be used: write sqlite:///FILE, or install the database's driver."
        ) from None


@contextmanager
def _unavailable(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        place = sa.make_url(url).render_as_string(hide_password=True)
        raise LedgerUnavailable(f"The consent ledger at {place} can't be used: {error.orig}.") from error


def _sqlite_pragmas(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()


def _check(entry: Entry, *, received_at: datetime) -> None:
    what = f"{entry.status} for {entry.purpose}"
    if entry.indicated_at > received_at:
        raise UnusableChoice(f"The choice {what} is dated {entry.indicated_at.isoformat()}, after it was received.")
    if entry.expires_at is not None and not entry.indicated_at < entry.expires_at <= entry.indicated_at + LONGEST_GRANT:
        raise UnusableChoice(
            f"The choice {what} expires {entry.expires_at.isoformat()}; it must end within 13 months of being made."
        )


def _canonical(row: Mapping[str, object]) -> bytes:
    """The bytes a leaf is made of: JSON with sorted keys, no spaces, times in microseconds."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _fields(seq: int, entry: Entry, received_at: datetime) -> dict[str, object]:
    return {
        "seq": seq,
        "subject": entry.subject,
        "purpose": entry.purpose.value,
        "status": entry.status.value,
        "said_by": entry.said_by,
        "method": entry.method,
        "indicated_at": _micros(entry.indicated_at),
        "received_at": _micros(received_at),
        "expires_at": None if entry.expires_at is None else _micros(entry.expires_at),
        "notice_version": entry.notice_version,
        "notice_hash": entry.notice_hash or sha256(entry.notice_version.encode()).hexdigest(),
    }


def _row(record: Record) -> dict[str, object]:
    return {**_fields(record.seq, record.entry, record.received_at), "leaf": record.leaf}


def _record(row: sa.Row[Any]) -> Record:
    r = row._mapping
    try:
        purpose, status = Purpose(r["purpose"]), Status(r["status"])
    except ValueError as error:
        raise LedgerUnavailable(f"Record {r['seq']} of the consent ledger was altered: {error}.") from None
    entry = Entry(
        subject=r["subject"],
        purpose=purpose,
        status=status,
        indicated_at=_moment(r["indicated_at"]),
        said_by=r["said_by"],
        method=r["method"],
        notice_version=r["notice_version"],
        notice_hash=r["notice_hash"],
        expires_at=None if r["expires_at"] is None else _moment(r["expires_at"]),
    )
    return Record(r["seq"], entry, _moment(r["received_at"]), bytes(r["leaf"]))


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
