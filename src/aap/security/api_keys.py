"""API keys: who may call the HTTP doors, for what, until when.

A key is `aap_` and 32 random bytes. It is shown once, when it is made; what is kept is its SHA-256. A slow password
hash would add nothing: 256 random bits can't be guessed, and every request pays for the hash. Each request looks its
key up by the indexed hash, with no cache in between, so a revoked key stops working with the next request; that look-up
goes to SQLite directly, for it is on every request's way.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aap.infra.atomic_files import private_folder
from aap.infra.sql import make_tables
from aap.infra.timestamps import from_micros, to_micros
from aap.security.errors import ApiKeyError

__all__ = ["ApiKeys", "KeyInfo", "Scope", "parse_scopes"]

_PREFIX = "aap_"
_LENGTH = len(_PREFIX) + 43  # 32 bytes in base64
_ID_LENGTH = 12

_metadata = sa.MetaData()
_keys = sa.Table(
    "api_keys",
    _metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("id", sa.String(_ID_LENGTH), nullable=False, unique=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("scopes", sa.String, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
)
_BY_HASH = f"SELECT {', '.join(c.name for c in _keys.columns)} FROM api_keys WHERE hash = ?"


class Scope(StrEnum):
    """What a key may be used for."""

    PREDICT = "predict"
    CONSENT = "consent"
    COLLECT = "collect"
    PRIVACY = "privacy"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of a key, without the key."""

    id: str
    """The first 12 hex characters of its hash."""
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may be used for `scope`; an admin key may be used for everything."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def valid(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class ApiKeys:
    """The keys of one home, in one SQLite file; several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        private_folder(path.parent)
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 5.0})
        sa.event.listen(self._engine, "connect", _configure)
        make_tables(_metadata, self._engine)
        path.chmod(0o600)
        self._reading = threading.Lock()
        self._reader = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        self._reader.row_factory = sqlite3.Row

    def create(
        self, name: str, *, scopes: Iterable[Scope | str], now: datetime, expires_at: datetime | None = None
    ) -> str:
        """Make a key and return it; it can't be shown again.

        Raises `ApiKeyError` for an empty or taken name, no or an unknown scope, or an expiry that is not after `now`.
        """
        name, wanted = name.strip(), parse_scopes(scopes)
        if not name:
            raise ApiKeyError("A key needs a name: say who will use it, for example 'shop-frontend'.")
        if expires_at is not None and expires_at <= now:
            raise ApiKeyError(f"The key would expire at {expires_at.isoformat()}, which is past: choose a later time.")
        key = _PREFIX + secrets.token_urlsafe(32)
        digest = _digest(key)
        row = {
            "hash": digest,
            "id": digest.hex()[:_ID_LENGTH],
            "name": name,
            "scopes": " ".join(sorted(wanted)),
            "created_at": to_micros(now),
            "expires_at": None if expires_at is None else to_micros(expires_at),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_keys), row)
        except sa.exc.IntegrityError:
            raise ApiKeyError(f"There is a key named {name!r} already: choose another name.") from None
        return key

    def verify(self, key: str, *, now: datetime) -> KeyInfo | None:
        """What the key may be used for, or None if it is unknown, revoked or expired at `now`.

        The look-up is by hash, so its duration says nothing about a key; the hashes are compared in constant time.
        """
        if len(key) != _LENGTH:
            return None
        digest = _digest(key)
        with self._reading:
            row = self._reader.execute(_BY_HASH, (digest,)).fetchone()
        if row is None or not hmac.compare_digest(row["hash"], digest):
            return None
        info = _info(row)
        return info if info.valid(now) else None

    def revoke(self, name_or_id: str, *, now: datetime) -> KeyInfo:
        """Stop a key from working, by its name or the beginning (4 characters or more) of its id.

        Raises `ApiKeyError` when no key or several keys match. Revoking a revoked key changes nothing.
        """
        found = [k for k in self.list() if k.name == name_or_id]
        if not found and len(name_or_id) >= 4:
            found = [k for k in self.list() if k.id.startswith(name_or_id)]
        if len(found) != 1:
            what = f"{len(found)} keys have an id that begins" if found else "No key has that name or an id that begins"
            raise ApiKeyError(f"{what} with {name_or_id!r}: `aap keys list` shows names and ids.")
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(_keys)
                .where(_keys.c.id == found[0].id, _keys.c.revoked_at.is_(None))
                .values(revoked_at=to_micros(now))
            )
            row = connection.execute(sa.select(_keys).where(_keys.c.id == found[0].id)).mappings().one()
        return _info(row)

    def list(self) -> list[KeyInfo]:
        """Every key, oldest first, revoked and expired ones too."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.created_at, _keys.c.name)).mappings().all()
        return [_info(row) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
        self._engine.dispose()


def parse_scopes(scopes: Iterable[Scope | str]) -> frozenset[Scope]:
    """The scopes called so; raises `ApiKeyError` naming the ones there are."""
    known = ", ".join(Scope)
    try:
        wanted = frozenset(Scope(s) for s in scopes)
    except ValueError as error:
        raise ApiKeyError(f"Unknown scope ({error}): choose from {known}.") from None
    if not wanted:
        raise ApiKeyError(f"A key needs at least one scope: choose from {known}.")
    return wanted


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _configure(connection: Any, _record: Any) -> None:
    """A rollback journal: a write-ahead log works on one machine alone, and replicas on several share this file."""
    connection.execute("PRAGMA synchronous=FULL")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        # Files of before had one. While a process of before has the file open it stays, and works as it did.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=DELETE")


def _info(row: Any) -> KeyInfo:
    return KeyInfo(
        id=row["id"],
        name=row["name"],
        scopes=frozenset(Scope(s) for s in row["scopes"].split()),
        created_at=from_micros(row["created_at"]),
        expires_at=None if row["expires_at"] is None else from_micros(row["expires_at"]),
        revoked_at=None if row["revoked_at"] is None else from_micros(row["revoked_at"]),
    )
