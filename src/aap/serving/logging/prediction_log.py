"""Prediction records: everything needed to make an answer again, bit for bit, and to show what it rested on.

An answer that consent denied is recorded without the person: it rested on nothing about them, so nothing about them is
kept. Records are written in the background; a full disk loses records, which are counted, and never an answer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from aap.infra.parquet_writer import Batches
from aap.serving.model_cache import InUse
from aap_client.requests import Asked
from aap_client.responses import Answer

__all__ = ["SCHEMA", "Evidence", "PredictionRecords", "record", "vector_hash"]

SCHEMA = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("endpoint", pa.string(), nullable=False),
        pa.field("user_key", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("code_revision", pa.string()),
        pa.field("features", pa.list_(pa.string())),
        pa.field("values", pa.list_(pa.float64())),
        pa.field("statuses", pa.list_(pa.uint8())),
        pa.field("sequences", pa.list_(pa.list_(pa.string()))),
        pa.field("vector_sha256", pa.string()),
        pa.field("asked", pa.string(), nullable=False),
        pa.field("catalogue", pa.string()),
        pa.field("consent_allowed", pa.bool_(), nullable=False),
        pa.field("consent_purpose", pa.string(), nullable=False),
        pa.field("consent_reason", pa.string(), nullable=False),
        pa.field("ledger_seq", pa.int64(), nullable=False),
        pa.field("flag", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("strategy", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("explanations", pa.list_(pa.string())),
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
    asked: Asked
    sequences: Sequence[Sequence[str]] | None = None
    """Of a model that reads sequences: one for each of `features`."""
    strategy: str | None = None
    catalogue: str | None = None
    """Which catalogue the list was sifted by, if it was: for filters, or so many of a category where nothing is known."""
    explanations: Sequence[str] | None = None
    """Of an explained list, `answering.explanations`: what is sent names items as the catalogue calls them today."""


class PredictionRecords:
    """The records under `folder`, written every few seconds; `code_revision` goes into each."""

    def __init__(self, folder: Path, *, code_revision: str | None = None, every_s: float = 2.0) -> None:
        self._batches = Batches(folder, SCHEMA, every_s=every_s)
        self._code_revision = code_revision

    @property
    def dropped(self) -> int:
        """Records lost for want of room."""
        return self._batches.dropped

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take records; returns at once."""
        for row in rows:
            row["code_revision"] = self._code_revision
        self._batches.add(rows)

    def flush(self) -> None:
        """Write what is waiting."""
        self._batches.flush()

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._batches.close()


def vector_hash(
    values: Sequence[float] | None, statuses: Sequence[int] | None, sequences: Sequence[Sequence[str]] | None
) -> str:
    """SHA-256 (hex) of what a model was given: the values as little-endian float64, their statuses, the sequences."""
    hashed = sha256(struct.pack(f"<{len(values)}d", *values) if values else b"")
    hashed.update(bytes(statuses or ()))
    hashed.update("\x01".join("\x00".join(one) for one in sequences or ()).encode())
    return hashed.hexdigest()


def record(answer: Answer[Any], evidence: Evidence, *, endpoint: str, used: InUse, at: datetime) -> dict[str, Any]:
    """One row of `SCHEMA`; `answer` in it is the result as the JSON that was sent."""
    allowed = answer.consent.allowed
    found = evidence if allowed else None
    return {
        "prediction_id": answer.prediction_id,
        "time": at,
        "endpoint": endpoint,
        "user_key": found and found.user_key,
        "model": used.name,
        "model_version": used.version,
        "model_sha256": used.sha256,
        "features": found and found.features,
        "values": found and found.values,
        "statuses": found and found.statuses,
        "sequences": found and found.sequences,
        "vector_sha256": found and vector_hash(found.values, found.statuses, found.sequences),
        "asked": msgspec.json.encode(evidence.asked).decode(),
        "catalogue": evidence.catalogue,
        "consent_allowed": allowed,
        "consent_purpose": str(answer.consent.purpose),
        "consent_reason": answer.consent.reason,
        "ledger_seq": evidence.ledger_seq if allowed else -1,
        "flag": answer.experiment.flag if answer.experiment else None,
        "variant": answer.experiment.variant if answer.experiment else None,
        "strategy": evidence.strategy if allowed else None,
        "outcome": str(answer.outcome),
        "answer": msgspec.json.encode(answer.result).decode(),
        "explanations": evidence.explanations,
    }
