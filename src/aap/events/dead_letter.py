"""The rejected log: rows and events that don't fit, each with its reason, until they are replayed or dropped.

Only what consent would have allowed to be stored is kept here; the person is named by user key alone. What consent
refuses is counted elsewhere and kept nowhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aap.infra.sql import make_tables

__all__ = ["Rejected", "RejectedLog"]

_metadata = sa.MetaData()
_rejected = sa.Table(
    "rejected",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("rejected_at", sa.Text, nullable=False),
    sa.Column("door", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("user_key", sa.String(32), nullable=False, index=True),
    sa.Column("payload", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row or event that did not fit. `door` is where it came in: the mapping file, or `collector`."""

    door: str
    event: str
    reason: str
    user_key: str
    payload: dict[str, Any]
    rejected_at: datetime
    number: int = 0


class RejectedLog:
    """The log in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _overwrite_what_is_deleted)
        make_tables(_metadata, self._engine)

    def add(self, entries: Sequence[Rejected]) -> int:
        """Keep `entries`; those already there, same door, person, reason and content, are not kept again.

        Equal entries handed in together are as many rows: two equal bad lines of one table stay two.
        """
        known = Counter(
            (r.door, r.reason, r.user_key, r.payload)
            for door in {e.door for e in entries}
            for r in self._rows(_rejected.c.door == door)
        )
        new = []
        for entry in entries:
            payload = json.dumps(entry.payload, sort_keys=True, default=str)
            key = (entry.door, entry.reason, entry.user_key, payload)
            if known[key]:
                known[key] -= 1
                continue
            row = {"door": entry.door, "event": entry.event, "reason": entry.reason, "user_key": entry.user_key}
            new.append({**row, "payload": payload, "rejected_at": entry.rejected_at.isoformat()})
        if new:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_rejected), new)
        return len(new)

    def list(self, *, limit: int | None = None) -> list[Rejected]:
        """The oldest entries first."""
        query = sa.select(_rejected).order_by(_rejected.c.number).limit(limit)
        with self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Entries by (door, event, reason)."""
        columns = (_rejected.c.door, _rejected.c.event, _rejected.c.reason)
        query = sa.select(*columns, sa.func.count()).group_by(*columns).order_by(*columns)
        with self._engine.connect() as connection:
            return {(r[0], r[1], r[2]): r[3] for r in connection.execute(query)}

    def remove(self, numbers: Sequence[int]) -> None:
        """Take entries out, once they were replayed."""
        if not numbers:
            return
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(_rejected).where(_rejected.c.number == sa.bindparam("n")), [{"n": n} for n in numbers]
            )

    def of(self, user_key: str) -> Sequence[Rejected]:
        """Every entry of one person."""
        return [_entry(row) for row in self._rows(_rejected.c.user_key == user_key)]

    def erase(self, user_key: str) -> int:
        """Delete every entry of one person; returns how many there were."""
        with self._engine.begin() as connection:
            return connection.execute(sa.delete(_rejected).where(_rejected.c.user_key == user_key)).rowcount

    def _rows(self, where: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_rejected).where(where)).all()


def _entry(row: sa.Row[Any]) -> Rejected:
    at = datetime.fromisoformat(row.rejected_at).astimezone(UTC)
    return Rejected(row.door, row.event, row.reason, row.user_key, json.loads(row.payload), at, row.number)


def _overwrite_what_is_deleted(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA secure_delete = ON")
