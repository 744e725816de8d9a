"""The encrypted id map: from `user_key` back to the user id, for access and erasure requests only.

Each id is sealed with AES-256-GCM under the id-map key, with the user key as associated data, so that a row can neither
be read nor moved to another person. It is the only place a raw user id is stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from security.errors import IdMapDamaged
from storage.keys import load_or_create
from storage.layout import Layout

__all__ = ["IdMap", "open_id_map"]

_metadata = sa.MetaData()
_ids = sa.Table(
    "ids",
    _metadata,
    sa.Column("user_key", sa.String(32), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)


class IdMap:
    """The map in one SQLite file."""

    def __init__(self, path: Path, *, key: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cipher = AESGCM(key)
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _overwrite_what_is_deleted)
        _metadata.create_all(self._engine)

    def remember(self, ids: Mapping[str, str]) -> int:
        """Keep `user_key -> user id` for those not known yet; returns how many were new."""
        with self._engine.begin() as connection:
            known = set(connection.execute(sa.select(_ids.c.user_key)).scalars())
            new = [{"user_key": k, "sealed": self._seal(k, v)} for k, v in ids.items() if k not in known]
            if new:
                connection.execute(sa.insert(_ids).prefix_with("OR IGNORE"), new)
        return len(new)

    def reveal(self, user_key: str) -> str | None:
        """The id behind `user_key`, or None. Raises `IdMapDamaged` when the row was altered."""
        with self._engine.connect() as connection:
            sealed = connection.execute(
                sa.select(_ids.c.sealed).where(_ids.c.user_key == user_key)
            ).scalar_one_or_none()
        if sealed is None:
            return None
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], user_key.encode()).decode()
        except (InvalidTag, ValueError):
            raise IdMapDamaged("An entry of the id map was altered or sealed under another key.") from None

    def user_keys(self) -> list[str]:
        """Everyone there is a row for, sorted."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.select(_ids.c.user_key).order_by(_ids.c.user_key)).scalars())

    def knows(self, user_key: str) -> bool:
        """Whether there is a row for `user_key`."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_ids.c.user_key).where(_ids.c.user_key == user_key)).first() is not None

    def forget(self, user_key: str) -> None:
        """Delete one person's row."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_ids).where(_ids.c.user_key == user_key))

    def _seal(self, user_key: str, user_id: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, user_id.encode(), user_key.encode())


def open_id_map(layout: Layout) -> IdMap:
    """The id map of this home."""
    return IdMap(layout.id_map, key=load_or_create(layout.keys / "id_map.key"))


def _overwrite_what_is_deleted(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA secure_delete = ON")
