"""Vitals: how fast and how soundly each variant answers. Sums over calls, so there is nobody in them.

A call counts for a variant when everybody it answered with it was in the experiment; its time is that of the variant's
own work, a person. Written to Parquet as sums every few seconds; a guardrail reads their totals.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from aap.infra.duckdb import open_duckdb
from aap.infra.parquet_writer import Batches

__all__ = ["SCHEMA", "Vital", "Vitals", "read_vitals"]

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("flag", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("calls", pa.int64(), nullable=False),
        pa.field("errors", pa.int64(), nullable=False),
        pa.field("ms", pa.float64(), nullable=False),
        pa.field("ms_squared", pa.float64(), nullable=False),
    ]
)


@dataclass(slots=True)
class Vital:
    """Sums over the calls of one variant; times are of calls that did not fail."""

    calls: int = 0
    errors: int = 0
    ms: float = 0.0
    ms_squared: float = 0.0


class Vitals:
    """Collects in memory and writes to `folder`."""

    def __init__(self, folder: Path) -> None:
        self._batches = Batches(folder, SCHEMA, every_s=2.0)
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str], Vital] = defaultdict(Vital)

    @contextmanager
    def measured(self, flag: str, variant: str, people: int) -> Iterator[None]:
        """Time what is done inside for so many people; what it raises counts as an error, and goes on."""
        started = time.perf_counter()
        try:
            yield
        except Exception:
            self._add(flag, variant, Vital(1, 1))
            raise
        ms = (time.perf_counter() - started) * 1_000 / people
        self._add(flag, variant, Vital(1, 0, ms, ms * ms))

    def write(self, *, now: datetime) -> None:
        """Hand over what was summed since the last time."""
        with self._lock:
            sums, self._sums = self._sums, defaultdict(Vital)
        self._batches.add(
            {
                "time": now,
                "flag": flag,
                "variant": variant,
                "calls": v.calls,
                "errors": v.errors,
                "ms": v.ms,
                "ms_squared": v.ms_squared,
            }
            for (flag, variant), v in sums.items()
        )

    def close(self, *, now: datetime) -> None:
        """Write what is left and stop."""
        self.write(now=now)
        self._batches.close()

    def _add(self, flag: str, variant: str, more: Vital) -> None:
        with self._lock:
            held = self._sums[flag, variant]
            held.calls += more.calls
            held.errors += more.errors
            held.ms += more.ms
            held.ms_squared += more.ms_squared


def read_vitals(folder: Path, *, flag: str, until: datetime) -> dict[str, Vital]:
    """The totals of each variant of `flag` up to `until`."""
    if not any(folder.glob("day=*/*.parquet")):
        return {}
    files = str(folder / "day=*" / "*.parquet").replace("'", "''")
    with open_duckdb() as connection:
        rows = connection.execute(
            "SELECT variant, sum(calls)::BIGINT, sum(errors)::BIGINT, sum(ms), sum(ms_squared) "
            f"FROM read_parquet('{files}', hive_partitioning = false) WHERE flag = ? AND time <= ?::TIMESTAMPTZ "
            "GROUP BY variant",
            [flag, until.isoformat()],
        ).fetchall()
    return {variant: Vital(*sums) for variant, *sums in rows}
