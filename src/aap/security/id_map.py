"""The encrypted id map: from `user_key` back to the user id, for access and erasure requests only.

Each id is sealed with AES-256-GCM under a key of its own, which is wrapped by the keyring's current master and lies in the
same row; both are bound to the user key, so that a row can neither be read nor moved to another person. Whoever is
forgotten loses that key, and with it every copy of the sealed id means nothing. Maps of before had one key for all: their
entries open with it, and are given keys of their own with the next entry or rotation. It is the only place a raw user id
is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aap.config import Settings
from aap.infra.errors import KeyFileError
from aap.infra.keyring import Keyring, decrypt, encrypt, open_keyring
from aap.infra.paths import Layout
from aap.infra.secret_files import load_or_create
from aap.infra.sql import make_tables
from aap.security.errors import IdMapDamaged

__all__ = ["IdMap", "open_id_map"]

_metadata = sa.MetaData()
_ids = sa.Table(
    "ids",
    _metadata,
    sa.Column("user_key", sa.String(32), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("master", sa.String),
)
"""`sealed` is the id under the person's key, `wrapped_key` that key under the keyring's `master`; both null in entries
sealed under the one key there was before."""


class IdMap:
    """The map in one SQLite file. `clock` says when a master of the keyring is due; `old_key` is the one key of before."""

    def __init__(
        self, path: Path, *, keyring: Keyring, clock: Callable[[], datetime], old_key: bytes | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keyring, self._clock = keyring, clock
        self._old = None if old_key is None else AESGCM(old_key)
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _overwrite_what_is_deleted)
        make_tables(_metadata, self._engine)
        _add_what_lacks(self._engine)

    def remember(self, ids: Mapping[str, str]) -> int:
        """Keep `user_key -> user id` for those not known yet; returns how many were new."""
        with self._engine.begin() as connection:
            self._bring_forward(connection)
            known = set(connection.execute(sa.select(_ids.c.user_key)).scalars())
            new = {k: v for k, v in ids.items() if k not in known}
            if new:
                master = self._keyring.current(now=self._clock()).name
                rows = [self._seal(k, v, master) for k, v in new.items()]
                connection.execute(sa.insert(_ids).prefix_with("OR IGNORE"), rows)
        return len(new)

    def reveal(self, user_key: str) -> str | None:
        """The id behind `user_key`, or None. Raises `IdMapDamaged` when the row was altered."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_ids).where(_ids.c.user_key == user_key)).one_or_none()
        return None if row is None else self._open(row)

    def rotate(self, *, now: datetime) -> int:
        """Wrap everybody's key by the master current at `now`; returns for how many another one did."""
        with self._engine.begin() as connection:
            moved = self._bring_forward(connection)
            master = self._keyring.current(now=now).name
            for row in connection.execute(sa.select(_ids).where(_ids.c.master != master)).all():
                wrapped = self._keyring.wrap(self._key(row), under=master, bound_to=row.user_key.encode())
                changed = {"wrapped_key": wrapped, "master": master}
                connection.execute(sa.update(_ids).where(_ids.c.user_key == row.user_key).values(changed))
                moved += 1
        return moved

    def masters(self) -> dict[str, int]:
        """How many people's keys each master wraps; the empty name stands for entries sealed under the key of before."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(_ids.c.master, sa.func.count()).group_by(_ids.c.master)).all()
        return {name or "": count for name, count in found}

    def user_keys(self) -> list[str]:
        """Everyone there is a row for, sorted."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.select(_ids.c.user_key).order_by(_ids.c.user_key)).scalars())

    def knows(self, user_key: str) -> bool:
        """Whether there is a row for `user_key`."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_ids.c.user_key).where(_ids.c.user_key == user_key)).first() is not None

    def forget(self, user_key: str) -> None:
        """Delete one person's row, and overwrite where it lay: their key is gone, whatever copies there are of the id."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_ids).where(_ids.c.user_key == user_key))

    def _seal(self, user_key: str, user_id: str, master: str) -> dict[str, Any]:
        bound_to, key = user_key.encode(), AESGCM.generate_key(bit_length=256)
        sealed = encrypt(AESGCM(key), user_id.encode(), bound_to)
        wrapped = self._keyring.wrap(key, under=master, bound_to=bound_to)
        return {"user_key": user_key, "sealed": sealed, "wrapped_key": wrapped, "master": master}

    def _open(self, row: Any) -> str:
        cipher = self._old if row.master is None else AESGCM(self._key(row))
        if cipher is None:
            raise KeyFileError(
                "An entry of the id map is sealed under keys/id_map.key, which is missing: restore it from a backup."
            )
        try:
            return decrypt(cipher, row.sealed, row.user_key.encode()).decode()
        except (InvalidTag, ValueError):
            raise IdMapDamaged("An entry of the id map was altered or sealed under another key.") from None

    def _key(self, row: Any) -> bytes:
        return self._keyring.unwrap(row.wrapped_key or b"", under=row.master, bound_to=row.user_key.encode())

    def _bring_forward(self, connection: sa.Connection) -> int:
        """Seal the entries under the one key of before each under a key of its own."""
        old = connection.execute(sa.select(_ids).where(_ids.c.master.is_(None))).all()
        if old:
            master = self._keyring.current(now=self._clock()).name
            for row in old:
                connection.execute(
                    sa.update(_ids)
                    .where(_ids.c.user_key == row.user_key)
                    .values(self._seal(row.user_key, self._open(row), master))
                )
        return len(old)


def open_id_map(settings: Settings) -> IdMap:
    """The id map of this home."""
    layout = Layout(settings.home)
    old = layout.keys / "id_map.key"
    return IdMap(
        layout.id_map,
        keyring=open_keyring(layout),
        clock=settings.now,
        old_key=load_or_create(old) if old.exists() else None,
    )


def _overwrite_what_is_deleted(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA secure_delete = ON")


def _add_what_lacks(engine: sa.Engine) -> None:
    """A map of before has no column for keys of people."""
    there = {column["name"] for column in sa.inspect(engine).get_columns("ids")}
    if missing := [c for c in ("wrapped_key BLOB", "master VARCHAR") if c.partition(" ")[0] not in there]:
        with engine.begin() as connection:
            for column in missing:
                connection.execute(sa.text(f"ALTER TABLE ids ADD COLUMN {column}"))
