"""The database a ledger lies in: a SQLite file by default, any other by its SQLAlchemy URL.

A SQLite file is made once, when a ledger is opened, and from then on only read and written where it lies: one that was moved
away or replaced is not read through a connection that still holds it, and no empty one appears in its place.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from aap.consent.errors import LedgerUnavailable

__all__ = ["open_engine"]

_FILE = "file"
_PATIENCE_S = 10.0
"""How long to wait for another process that writes."""


def open_engine(url: str) -> sa.Engine:
    """The engine for `url`; raises `LedgerUnavailable` for one that can't be used."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(url)
        path = parsed.database
        engine = _of_file(url, Path(path)) if path and path != ":memory:" else sa.create_engine(url)
    except (sa.exc.ArgumentError, ModuleNotFoundError):
        raise LedgerUnavailable(
            f"The ledger's URL {url.split(':')[0]!r}:… can't be used: write sqlite:///FILE, or install the database's driver."
        ) from None
    # SQLAlchemy must not open transactions by itself: appends take the write lock first (BEGIN IMMEDIATE).
    sa.event.listen(engine, "connect", _pragmas)
    return engine


def _of_file(url: str, path: Path) -> sa.Engine:
    if not path.exists() and path.parent.is_dir():
        with contextlib.suppress(OSError):  # the driver says it in a moment, in words that everybody knows
            path.touch()
    place = f"file:{quote(str(path.absolute()))}?mode=rw"
    engine = sa.create_engine(
        url, creator=lambda: sqlite3.connect(place, uri=True, check_same_thread=False, timeout=_PATIENCE_S)
    )

    def opened(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info[_FILE] = _identity(path)

    def taken(_connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        if record.info.get(_FILE) != _identity(path):
            raise sa.exc.DisconnectionError("the ledger's file was moved or replaced")

    sa.event.listen(engine, "connect", opened)
    sa.event.listen(engine, "checkout", taken)
    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one put in its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _pragmas(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout={_PATIENCE_S * 1000:.0f}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
