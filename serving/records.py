"""Prediction records: everything needed to make an answer again, bit for bit, and to show what it rested on.

An answer that consent denied is recorded without the person: it rested on nothing about them, so nothing about them is
kept. Records are written in the background; a full disk loses records, which are counted, and never an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from experiments.batches import Batches
from serving.answers import Answer
from serving.models_in_use import InUse

__all__ = ["SCHEMA", "Evidence", "PredictionRecords", "record"]

SCHEMA = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("endpoint", pa.string(), nullable=False),
        pa.field("user_key", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("features", pa.list_(pa.string())),
        pa.field("values", pa.list_(pa.float64())),
        pa.field("statuses", pa.list_(pa.uint8())),
        pa.field("sequence", pa.list_(pa.string())),
        pa.field("baskets", pa.list_(pa.string())),
        pa.field("n", pa.int32()),
        pa.field("consent_allowed", pa.bool_(), nullable=False),
        pa.field("consent_purpose", pa.string(), nullable=False),
        pa.field("consent_reason", pa.string(), nullable=False),
        pa.field("ledger_seq", pa.int64(), nullable=False),
        pa.field("flag", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one answer was computed from."""

    user_key: str
    ledger_seq: int
    features: tuple[str, ...]
    values: Sequence[float] | None
    statuses: Sequence[int] | None
    sequence: Sequence[str] | None = None
    baskets: Sequence[str] | None = None
    """Of a sequence of items, the basket of each."""
    n: int | None = None


class PredictionRecords:
    """The records under `folder`, written every few seconds."""

    def __init__(self, folder: Path, *, every_s: float = 2.0) -> None:
        self._batches = Batches(folder, SCHEMA, every_s=every_s)

    @property
    def dropped(self) -> int:
        """Records lost for want of room."""
        return self._batches.dropped

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take records; returns at once."""
        self._batches.add(rows)

    def flush(self) -> None:
        """Write what is waiting."""
        self._batches.flush()

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._batches.close()


def record(answer: Answer[Any], evidence: Evidence, *, endpoint: str, used: InUse, at: datetime) -> dict[str, Any]:
    """One row of `SCHEMA`; `answer` in it is the result as the JSON that was sent."""
    allowed = answer.consent.allowed
    return {
        "prediction_id": answer.prediction_id,
        "time": at,
        "endpoint": endpoint,
        "user_key": evidence.user_key if allowed else None,
        "model": used.name,
        "model_version": used.version,
        "model_sha256": used.sha256,
        "features": evidence.features if allowed else None,
        "values": evidence.values if allowed else None,
        "statuses": evidence.statuses if allowed else None,
        "sequence": evidence.sequence if allowed else None,
        "baskets": evidence.baskets if allowed else None,
        "n": evidence.n,
        "consent_allowed": allowed,
        "consent_purpose": str(answer.consent.purpose),
        "consent_reason": answer.consent.reason,
        "ledger_seq": evidence.ledger_seq if allowed else -1,
        "flag": answer.experiment.flag if answer.experiment else None,
        "variant": answer.experiment.variant if answer.experiment else None,
        "outcome": str(answer.outcome),
        "answer": msgspec.json.encode(answer.result).decode(),
    }
