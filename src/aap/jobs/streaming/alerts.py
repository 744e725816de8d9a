"""Alerts: what a live event, session or person scored above a threshold with, and why. A request that a person look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

__all__ = ["SCHEMA", "Alert", "read"]

SCHEMA = pa.schema(
    [
        pa.field("alert_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("user_key", pa.string(), nullable=False),
        pa.field("about", pa.string(), nullable=False),
        pa.field("occurred_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("drivers", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("ledger_seq", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert."""

    time: datetime
    """When it was noticed."""
    kind: str
    """`event`, `session` or `user`."""
    user_key: str
    about: str
    """Source and id of the event, the basket, or for a person the day."""
    occurred_at: datetime
    score: float
    threshold: float
    drivers: tuple[str, ...]
    """The features furthest from usual, furthest first."""
    model: str
    model_version: str
    ledger_seq: int
    """Of the consent decision it rests on."""

    @property
    def alert_id(self) -> str:
        """The same for the same thing told by the same model, so that an alert given twice is one. 32 hex characters."""
        told = "\x1f".join((self.kind, self.user_key, self.about, self.model, self.model_version))
        return sha256(told.encode()).hexdigest()[:32]

    def to_row(self) -> dict[str, Any]:
        """A row of `SCHEMA`."""
        return {"alert_id": self.alert_id, **asdict(self), "drivers": list(self.drivers)}


def read(folder: Path, *, most: int = 100) -> Sequence[dict[str, Any]]:
    """The newest alerts below `folder`, newest first, each once."""
    files = [str(path) for path in sorted(folder.rglob("*.parquet"))] if folder.is_dir() else []
    if not files:
        return []
    rows: Iterable[dict[str, Any]] = ds.dataset(files, schema=SCHEMA).to_table().sort_by("time").to_pylist()
    once = {row["alert_id"]: row for row in reversed(list(rows))}
    return list(once.values())[:most]
