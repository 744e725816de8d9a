"""Exposures: who was shown which variant of which flag, and when; the raw material of every readout.

A person is exposed to a flag once, the first time a variant was really applied to what they were shown; the split in
force then is noted, so that a later change of weights can be told apart.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.infra.atomic_files import write_atomically
from aap.infra.duckdb import open_duckdb
from aap.infra.parquet_writer import Batches

__all__ = ["SCHEMA", "Exposures", "erase_exposures", "read_exposures"]

SCHEMA = pa.schema(
    [
        pa.field("user_key", pa.string(), nullable=False),
        pa.field("flag", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("split", pa.string()),
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

    def log(self, user_key: str, *, flag: str, variant: str, split: str, at: datetime) -> None:
        """Take one exposure; who calls makes sure that it is the first."""
        self._batches.add([{"user_key": user_key, "flag": flag, "variant": variant, "time": at, "split": split}])

    def flush(self) -> None:
        """Write what is waiting."""
        self._batches.flush()

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._batches.close()


def read_exposures(folder: Path, *, flag: str, until: datetime) -> pa.Table:
    """Exposures to `flag` up to `until`: `user_key`, `variant`, `time`, `split`, in the order of time and person."""
    if not any(folder.glob("day=*/*.parquet")):
        return SCHEMA.empty_table().select(["user_key", "variant", "time", "split"])
    files = str(folder / "day=*" / "*.parquet").replace("'", "''")
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("as_logged", SCHEMA.empty_table())  # older files lack the split
        return connection.execute(
            "SELECT DISTINCT user_key, variant, time, split FROM (SELECT * FROM as_logged UNION ALL BY NAME "
            f"SELECT * FROM read_parquet('{files}', hive_partitioning = false, union_by_name = true)) "
            "WHERE flag = ? AND time <= ?::TIMESTAMPTZ ORDER BY time, user_key, variant",
            [flag, until.isoformat()],
        ).to_arrow_table()


def erase_exposures(folder: Path, user_key: str) -> int:
    """Delete every exposure of one person; returns how many there were."""
    erased = 0
    for file in sorted(folder.glob("day=*/*.parquet")):
        table = pq.read_table(file, partitioning=None)
        left = table.filter(pc.field("user_key") != user_key)
        if left.num_rows == table.num_rows:
            continue
        erased += table.num_rows - left.num_rows
        if left.num_rows:
            write_atomically(file, lambda f, rows=left: pq.write_table(rows, f, compression="zstd"), private=True)  # type: ignore[misc]
        else:
            file.unlink()
    return erased
