"""The consent ledger: an append-only list of choices, one record a subject × purpose × change.

The ledger says what was chosen; `consent.policy` says what follows. Records are numbered from 1 without gaps and each has
a Merkle leaf, so a checkpoint (size, root) fixes everything before it. The database itself refuses UPDATE and DELETE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from consent import merkle
from consent.errors import LedgerUnavailable, UnusableChoice
from consent.policy import LONGEST_GRANT, Choice, Grant, Reason, decide, grants
from consent.purposes import Purpose
from consent.records import (
    CHOICE,
    METADATA,
    RECORDS,
    SQLITE_APPEND_ONLY,
    Entry,
    Record,
    canonical,
    choice_of,
    fields_of,
    micros,
    record_of,
    row_of,
)

__all__ = ["Checkpoint", "Entry", "Ledger", "Record"]

_SIZE = sa.select(sa.func.coalesce(sa.func.max(RECORDS.c.seq), 0))


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
            METADATA.create_all(self._engine)
            if self._engine.dialect.name == "sqlite":
                with self._engine.begin() as connection:
                    for statement in SQLITE_APPEND_ONLY:
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
                key = (entry.subject, entry.purpose.value, entry.status.value, micros(entry.indicated_at))
                if key in known:
                    continue
                known.add(key)
                seq += 1
                made.append(
                    Record(seq, entry, received_at, merkle.leaf_hash(canonical(fields_of(seq, entry, received_at))))
                )
            if made:
                connection.execute(sa.insert(RECORDS), [row_of(r) for r in made])
        return made

    def history(self, subject: str) -> list[Record]:
        """Everything `subject` chose, in ledger order."""
        return list(self._select(RECORDS.c.subject == subject))

    def records(self, *, after: int = 0) -> Iterator[Record]:
        """All records with `seq > after`, in order."""
        return self._select(RECORDS.c.seq > after)

    def size(self) -> int:
        """Number of records."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(_SIZE).scalar_one()

    def checkpoint(self) -> Checkpoint:
        """Size and Merkle root now."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            leaves = connection.execute(sa.select(RECORDS.c.leaf).order_by(RECORDS.c.seq)).scalars().all()
        return Checkpoint(len(leaves), merkle.root(leaves).hex())

    def first_altered(self) -> int | None:
        """The `seq` of the first record whose content no longer gives its leaf, or that is missing; None if all hold."""
        for expected, row in enumerate(self._rows(sa.true()), start=1):
            told = dict(row._mapping)
            leaf = bytes(told.pop("leaf"))
            if told["seq"] != expected or merkle.leaf_hash(canonical(told)) != leaf:
                return expected
        return None

    def standing(
        self,
        *,
        subjects: Iterable[str] | None = None,
        purposes: Collection[Purpose] = tuple(Purpose),
        in_force_at: datetime | None = None,
    ) -> dict[str, dict[Purpose, tuple[list[Grant], Reason]]]:
        """Every known subject's grants (and the reason outside of them) for every purpose, or for those in `purposes`.

        With `in_force_at` only the grants that hold then: whatever a past moment allowed, no use now rests on another.
        """
        where = sa.true() if subjects is None else RECORDS.c.subject.in_(list(subjects))
        choices: dict[str, dict[Purpose, list[Choice]]] = defaultdict(dict)
        for row in self._rows(where, CHOICE):
            choice = choice_of(row)
            of_subject = choices[choice.subject]  # one choice about anything makes a subject known
            if choice.purpose in purposes:
                of_subject.setdefault(choice.purpose, []).append(choice)
        return {
            subject: {p: _standing(by_purpose.get(p, ()), subject, p, in_force_at) for p in purposes}
            for subject, by_purpose in choices.items()
        }

    def _select(self, where: sa.ColumnElement[bool]) -> Iterator[Record]:
        return (record_of(row) for row in self._rows(where))

    def _rows(
        self, where: sa.ColumnElement[bool], columns: Sequence[sa.Column[Any]] = tuple(RECORDS.c)
    ) -> Sequence[sa.Row[Any]]:
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(sa.select(*columns).where(where).order_by(RECORDS.c.seq)).all()

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
        columns = (RECORDS.c.subject, RECORDS.c.purpose, RECORDS.c.status, RECORDS.c.indicated_at)
        query = sa.select(*columns)
        if len(subjects) <= 500:
            query = query.where(RECORDS.c.subject.in_(subjects))
        return {(r[0], r[1], r[2], r[3]) for r in connection.execute(query)}


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except (sa.exc.ArgumentError, ModuleNotFoundError):
        raise LedgerUnavailable(
            f"The ledger's URL {url.split(':')[0]!r}:… can't be used: write sqlite:///FILE, or install the database's driver."
        ) from None


def _standing(
    choices: Iterable[Choice], subject: str, purpose: Purpose, in_force_at: datetime | None
) -> tuple[list[Grant], Reason]:
    found, otherwise = grants(choices, subject=subject, purpose=purpose)
    if in_force_at is None:
        return found, otherwise
    held = [g for g in found if g.start <= in_force_at < g.end]
    return held, decide(found, purpose=purpose, otherwise=otherwise, now=in_force_at, ledger_seq=0).reason


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
