"""Exposures: who was shown which variant of which flag, and when; the raw material of every readout.

A person is exposed to a flag once, the first time a variant was really applied to what they were shown.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from experiments.batches import Batches

__all__ = ["SCHEMA", "Exposures"]

SCHEMA = pa.schema(
    [
        pa.field("user_key", pa.string(), nullable=False),
        pa.field("flag", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


class Exposures:
    """The exposure log under `folder`; written every second, so a killed process loses at most the last second."""

    def __init__(self, folder: Path, *, every_s: float = 1.0) -> None:
        self._batches = Batches(folder, SCHEMA, every_s=every_s)

    @property
    def dropped(self) -> int:
        """Exposures lost for want of room."""
        return self._batches.dropped

    def log(self, user_key: str, *, flag: str, variant: str, at: datetime) -> None:
        """Take one exposure; who calls makes sure that it is the first."""
        self._batches.add([{"user_key": user_key, "flag": flag, "variant": variant, "time": at}])

    def flush(self) -> None:
        """Write what is waiting."""
        self._batches.flush()

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._batches.close()
