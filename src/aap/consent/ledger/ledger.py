"""The consent ledger: an append-only list of choices, one record a subject × purpose × change.

The ledger says what was chosen; `aap.consent.policy` says what follows. Records are numbered from 1 without gaps and each has
a Merkle leaf, so a checkpoint (size, root) fixes everything before it; with a signer, every append is vouched for by
signed tree heads (`aap.consent.ledger.signed_tree_heads`). The database itself refuses UPDATE and DELETE.
`aap.consent.ledger.verification` checks it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aap.consent.errors import LedgerUnavailable, UnusableChoice
from aap.consent.ledger import merkle
from aap.consent.ledger.database import open_engine
from aap.consent.ledger.notices import NOTICES, Notice, notice_of, row_of_notice, superseded_at
from aap.consent.ledger.records import (
    CHOICE,
    GPC_METHOD,
    METADATA,
    RECORDS,
    Entry,
    Record,
    append_only,
    canonical,
    choice_of,
    fields_of,
    micros,
    record_of,
    row_of,
)
from aap.consent.ledger.signed_tree_heads import HEADS, TreeHead, frontier_at, head_of, heads_for, leaves_after
from aap.consent.ledger.signing import PublicKey, Signer
from aap.consent.ledger.tombstones import Tombstones
from aap.consent.policy import LONGEST_GRANT, Choice, Grant, Reason, Status, decide, grants
from aap.consent.purposes import Purpose, spec
from aap.infra.sql import make_tables

__all__ = ["Checkpoint", "Entry", "Ledger", "Record"]

_AT_ONCE = 1_000
"""Rows fetched together where they are read one after the other."""
_SIZE = sa.select(sa.func.coalesce(sa.func.max(RECORDS.c.seq), 0))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The ledger's state: the number of records and the Merkle root over them (hex)."""

    size: int
    root: str


class Ledger:
    """The ledger in one SQL database (SQLite by default, any SQLAlchemy URL)."""

    def __init__(self, url: str, *, signer: Signer | None = None, tombstones: Tombstones | None = None) -> None:
        self._engine = open_engine(url)
        self._signer, self._tombstones = signer, tombstones
        with _unavailable(url):
            make_tables(METADATA, self._engine)
            with self._engine.begin() as connection:
                for statement in append_only(self._engine.dialect.name):
                    connection.exec_driver_sql(statement)

    @classmethod
    def at(cls, path: Path, *, signer: Signer | None = None, tombstones: Tombstones | None = None) -> Ledger:
        """The ledger in the SQLite file at `path`, made if missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}", signer=signer, tombstones=tombstones)

    @property
    def public_key(self) -> PublicKey | None:
        """What the tree heads are checked with; None for a ledger that nobody signs."""
        return None if self._signer is None else self._signer.public

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
                self._sign(connection, made, signed_at=received_at)
        return made

    def publish(self, notice: Notice) -> None:
        """Add a notice; raises `UnusableChoice` when there is one of that version."""
        signature = None if self._signer is None else self._signer.sign("notice", notice.content())
        try:
            with _unavailable(str(self._engine.url)), self._exclusive() as connection:
                if connection.execute(sa.select(NOTICES).where(NOTICES.c.version == notice.version)).first():
                    raise UnusableChoice(
                        f"Notice {notice.version!r} is published already: give the new one another version."
                    )
                connection.execute(sa.insert(NOTICES), row_of_notice(notice, signature=signature))
        except sa.exc.IntegrityError:
            raise UnusableChoice(f"Notice {notice.version!r} is published already: choose another version.") from None

    def notices(self) -> list[Notice]:
        """Every published notice, the oldest first; raises `LedgerUnavailable` for one that this platform didn't sign."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            rows = connection.execute(sa.select(NOTICES).order_by(NOTICES.c.published_at)).all()
        found = [notice_of(row) for row in rows]
        for row, notice in zip(rows, found, strict=True):
            signed = bytes(row.signature or b"")
            if self._signer and not self._signer.public.signed("notice", notice.content(), signature=signed):
                raise LedgerUnavailable(
                    f"Notice {notice.version!r} of the consent ledger was altered: restore the ledger."
                )
        return found

    def tree_heads(self) -> list[TreeHead]:
        """Every signed tree head, the smallest first."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return [head_of(row) for row in connection.execute(sa.select(HEADS).order_by(HEADS.c.size))]

    def head(self) -> TreeHead | None:
        """The newest signed tree head."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            row = connection.execute(sa.select(HEADS).order_by(HEADS.c.size.desc()).limit(1)).first()
        return None if row is None else head_of(row)

    def check(self) -> TreeHead | None:
        """The newest signed tree head, read from the database itself and not from what is held of it in memory.

        Raises `LedgerUnavailable` where the newest records are not what this platform's key vouches for: another key, or
        records cut off or changed. `aap.consent.ledger.verification` looks at all of them.
        """
        if self._engine.dialect.name == "sqlite":
            self._engine.dispose()
        newest = sa.select(HEADS, _SIZE.scalar_subquery().label("records")).order_by(HEADS.c.size.desc()).limit(1)
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            row = connection.execute(newest).first()
        head, size = (head_of(row), row.records) if row is not None else (None, self.size())
        if self._signer is None or (head is None and size == 0):
            return head
        if head is None:
            raise LedgerUnavailable(
                f"None of the consent ledger's {size} records is signed: restore a copy with its tree heads; or, if it is of "
                "a version that didn't sign yet and nobody else could write to it, sign it as it is by `aap consent sign`."
            )
        if not head.holds(self._signer.public):
            raise LedgerUnavailable(
                "The consent ledger was signed with another key than this home's: restore keys/ledger.key, or the ledger."
            )
        last = [dict(r._mapping) for r in self._rows(RECORDS.c.seq == size)]
        if head.size != size or [r.pop("leaf") for r in last] != [merkle.leaf_hash(canonical(r)) for r in last]:
            raise LedgerUnavailable(
                f"The consent ledger ends at record {size}, which is not what was signed: `aap consent verify` says more."
            )
        return head

    def sign_all(self, *, at: datetime) -> int:
        """Sign the records of a ledger that was never signed, as they are; returns how many.

        Raises `UnusableChoice` where there is a tree head: what that doesn't vouch for was not written by this platform.
        """
        with _unavailable(str(self._engine.url)), self._exclusive() as connection:
            if connection.execute(sa.select(HEADS.c.size).limit(1)).first() is not None:
                raise UnusableChoice("The consent ledger is signed already: `aap consent verify` says what isn't.")
            made = [record_of(row) for row in connection.execute(sa.select(*RECORDS.c).order_by(RECORDS.c.seq))]
            if made:
                self._sign(connection, made, signed_at=at)
        return len(made)

    def subjects(self, *, after: str, most: int) -> list[str]:
        """The next `most` people of whom there is a record, in the order of their keys."""
        query = sa.select(RECORDS.c.subject).where(RECORDS.c.subject > after).distinct().order_by(RECORDS.c.subject)
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return list(connection.execute(query.limit(most)).scalars())

    def leaves(self, *, up_to: int | None = None) -> list[bytes]:
        """The Merkle leaves of the first `up_to` records, by default of all."""
        query = sa.select(RECORDS.c.leaf).order_by(RECORDS.c.seq).limit(up_to)
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return [bytes(leaf) for leaf in connection.execute(query).scalars()]

    def history(self, subject: str) -> list[Record]:
        """Everything `subject` chose, in ledger order."""
        return list(self._select(RECORDS.c.subject == subject))

    def records(self, *, after: int = 0) -> Iterator[Record]:
        """All records with `seq > after`, in order."""
        return self._select(RECORDS.c.seq > after)

    def rows(self, *, after: int = 0, most: int | None = None) -> Iterator[dict[str, Any]]:
        """Records as they lie in the database, in the order of their numbers; for `aap.consent.ledger.verification`."""
        return (dict(row._mapping) for row in self._rows(RECORDS.c.seq > after, most=most))

    def size(self) -> int:
        """Number of records."""
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(_SIZE).scalar_one()

    def checkpoint(self) -> Checkpoint:
        """Size and Merkle root now."""
        leaves = self.leaves()
        return Checkpoint(len(leaves), merkle.root(leaves).hex())

    def first_altered(self) -> int | None:
        """The `seq` of the first record whose content no longer gives its leaf, or that is missing; None if all hold."""
        for expected, row in enumerate(self._rows(sa.true()), start=1):
            told = dict(row._mapping)
            leaf = bytes(told.pop("leaf"))
            if told["seq"] != expected or merkle.leaf_hash(canonical(told)) != leaf:
                return expected
        return None

    def gpc_is_set(self, subject: str, *, at: datetime) -> bool:
        """Whether the person's Global Privacy Control was set at `at`, and not lifted since."""
        told = [r.entry for r in self.history(subject) if r.entry.method == GPC_METHOD and r.entry.indicated_at <= at]
        newest = max(told, key=lambda e: (e.indicated_at, e.status is not Status.UNKNOWN), default=None)
        return newest is not None and newest.status is not Status.UNKNOWN

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
        notices = self.notices()
        for row in self._rows(where, CHOICE):
            of_subject = choices[row.subject]  # one choice about anything makes a subject known
            choice = _choice(row, notices)
            if choice.purpose in purposes:
                of_subject.setdefault(choice.purpose, []).append(choice)
        for subject, at in self._tombstones.erased(choices).items() if self._tombstones else ():
            for purpose in purposes:  # whatever this copy of the ledger says
                choices[subject].setdefault(purpose, []).append(Choice(subject, purpose, Status.WITHDRAWN, at))
        return {
            subject: {p: _standing(by_purpose.get(p, ()), subject, p, in_force_at) for p in purposes}
            for subject, by_purpose in choices.items()
        }

    def in_force(self, purpose: Purpose, *, at: datetime) -> dict[str, datetime]:
        """Every known subject whose grant of `purpose` holds at `at`, and since when: what `standing` says, for less.

        They are judged one after the other, so that nothing is kept of a crowd for the garbage collector to look through.
        """
        found: dict[str, datetime] = {}
        notices, needed = self.notices(), spec(purpose).needs_consent
        rows = self._by_subject(RECORDS.c.purpose == purpose.value if needed else sa.true())
        for subject, theirs in groupby(rows, key=attrgetter("subject")):
            held, _ = grants((_choice(row, notices) for row in theirs), subject=subject, purpose=purpose)
            found.update((subject, grant.start) for grant in held if grant.start <= at < grant.end)
        if self._tombstones and (erased := self._tombstones.erased(found)):
            for subject, standing in self.standing(subjects=erased, purposes=[purpose], in_force_at=at).items():
                del found[subject]
                found.update((subject, grant.start) for grant in standing[purpose][0])
        return found

    def _select(self, where: sa.ColumnElement[bool]) -> Iterator[Record]:
        return (record_of(row) for row in self._rows(where))

    def _rows(
        self,
        where: sa.ColumnElement[bool],
        columns: Sequence[sa.Column[Any]] = tuple(RECORDS.c),
        *,
        most: int | None = None,
    ) -> Sequence[sa.Row[Any]]:
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            return connection.execute(sa.select(*columns).where(where).order_by(RECORDS.c.seq).limit(most)).all()

    def _by_subject(self, where: sa.ColumnElement[bool]) -> Iterator[sa.Row[Any]]:
        """What the policy needs of the records `where`, subject by subject."""
        query = sa.select(*CHOICE).where(where).order_by(RECORDS.c.subject, RECORDS.c.seq)
        with _unavailable(str(self._engine.url)), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=_AT_ONCE).execute(query)

    def _sign(self, connection: sa.Connection, made: Sequence[Record], *, signed_at: datetime) -> None:
        """Tree heads over what was appended; the tree goes on from the last head that kept it."""
        if self._signer is None:
            return
        kept = sa.select(HEADS).where(HEADS.c.frontier.is_not(None)).order_by(HEADS.c.size.desc()).limit(1)
        frontier = frontier_at(connection.execute(kept).first())
        for leaf in leaves_after(connection, frontier.size, before=made[0].seq):
            frontier.append(leaf)
        leaves = (record.leaf for record in made)
        rows = heads_for(leaves, frontier=frontier, signer=self._signer, signed_at=signed_at, count=len(made))
        connection.execute(sa.insert(HEADS), list(rows))

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


def _choice(row: sa.Row[Any], notices: Sequence[Notice]) -> Choice:
    choice = choice_of(row)
    if not notices:
        return choice
    return replace(choice, superseded_at=superseded_at(notices, choice.purpose, row.notice_version))


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


def _check(entry: Entry, *, received_at: datetime) -> None:
    what = f"{entry.status} for {entry.purpose}"
    if entry.indicated_at > received_at:
        raise UnusableChoice(f"The choice {what} is dated {entry.indicated_at.isoformat()}, after it was received.")
    if entry.expires_at is not None and not entry.indicated_at < entry.expires_at <= entry.indicated_at + LONGEST_GRANT:
        raise UnusableChoice(
            f"The choice {what} expires {entry.expires_at.isoformat()}; it must end within 13 months of being made."
        )
