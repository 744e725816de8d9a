"""Tombstones: who was erased, and when. Nothing of theirs from before that moment may come back, by any way.

A tombstone holds no id and no user key: the SHA-256 of the user key, cut to 128 bits. It is enough to recognise a person
who comes up again, in a backup or in somebody's table, and says nothing to whoever reads it. `aap.consent.ledger.ledger`
treats it as a withdrawal of everything at that moment, whatever the ledger itself says: the ledger may be an older copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa

from aap.consent.errors import LedgerUnavailable
from aap.infra.paths import Layout
from aap.infra.sql import make_tables

__all__ = ["Tombstones", "open_tombstones", "person_digest"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_metadata = sa.MetaData()
_tombstones = sa.Table(
    "tombstones",
    _metadata,
    sa.Column("digest", sa.String(32), primary_key=True),
    sa.Column("erased_at", sa.BigInteger, nullable=False),
)


def person_digest(user_key: str) -> str:
    """What a person is recognised by where not even their user key may be kept: 32 hex characters."""
    return sha256(b"aap person\0" + user_key.encode()).hexdigest()[:32]


class Tombstones:
    """The tombstones of one home, in one SQLite file that is made by the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = sa.create_engine(f"sqlite:///{path}")

    def add(self, user_key: str, *, erased_at: datetime) -> None:
        """Set one; of several of one person the newest counts."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        make_tables(_metadata, self._engine)
        digest, at = person_digest(user_key), (erased_at - _EPOCH) // timedelta(microseconds=1)
        with self._engine.begin() as connection:
            found = sa.delete(_tombstones).where(_tombstones.c.digest == digest, _tombstones.c.erased_at <= at)
            connection.execute(found)
            connection.execute(sa.insert(_tombstones).prefix_with("OR IGNORE"), {"digest": digest, "erased_at": at})

    def erased(self, user_keys: Iterable[str]) -> dict[str, datetime]:
        """When each of `user_keys` was erased, for those who were. Raises `LedgerUnavailable`: not knowing is no yes."""
        if not self._path.exists():
            return {}
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(sa.select(_tombstones)).all()
        except sa.exc.DBAPIError as error:
            raise LedgerUnavailable(
                f"The tombstones at {self._path} can't be read ({error.orig}): restore them."
            ) from None
        known = {row.digest: row.erased_at for row in rows}
        if not known:
            return {}
        digests = ((key, person_digest(key)) for key in user_keys)
        return {key: _EPOCH + timedelta(microseconds=known[d]) for key, d in digests if d in known}


def open_tombstones(layout: Layout) -> Tombstones:
    """The tombstones of this home."""
    return Tombstones(layout.tombstones)
