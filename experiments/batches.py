"""Batches: rows that are written to Parquet in the background, so that whoever adds them never waits for a disk.

One file a batch and day, `day=YYYY-MM-DD/<time>-<random>.parquet`, whole or not at all. Rows are written every
`every_s` seconds and on `close`; a process killed in between loses what it had not written. When the disk can't be
written, rows are kept up to `room` and counted as dropped beyond it: answering matters more than recording.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StorageError
from storage.files import write_atomically

__all__ = ["Batches"]

_log = logging.getLogger("aap.batches")

Row = Mapping[str, Any]
_AT_ONCE = 100
"""Rows made into columns at once: meanwhile no other thread of Python's runs, so that answers wait for it."""


class Batches:
    """Rows of one schema on their way to `folder`. The schema has a column `time`: timestamp[us, UTC]."""

    def __init__(self, folder: Path, schema: pa.Schema, *, every_s: float = 1.0, room: int = 100_000) -> None:
        self._folder, self._schema, self._every_s, self._room = folder, schema, every_s, room
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._rows: list[Row] = []
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"batches:{folder.name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Rows lost for want of room since the start."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return len(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows to be written; returns at once and never raises."""
        with self._lock:
            self._rows.extend(rows)
            excess = len(self._rows) - self._room
            if excess > 0:
                del self._rows[-excess:]
                self._dropped += excess

    def flush(self) -> bool:
        """Write everything now; returns False, and keeps the rows, when the disk can't be written."""
        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
            left = self._write(rows)
            if left:
                with self._lock:
                    self._rows[:0] = left
            return not left

    def close(self) -> None:
        """Write what is left and stop."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self.flush()

    def _write(self, rows: list[Row]) -> list[Row]:
        """Write `rows`, one file a day; returns those that could not be written."""
        days: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            at: datetime = row["time"]
            days[f"{at.astimezone(UTC):%Y-%m-%d}"].append(row)
        left: list[Row] = []
        for day, ours in days.items():
            try:
                self._write_day(day, ours)
            except (OSError, StorageError) as error:
                _log.warning("%d rows wait to be written to %s: %s", len(ours), self._folder, error)
                left.extend(ours)
            except pa.ArrowException as error:  # a row that doesn't fit the schema would block all others for ever
                _log.error("%d rows for %s don't fit their schema and are dropped: %s", len(ours), self._folder, error)
                self._dropped += len(ours)
        return left

    def _write_day(self, day: str, rows: list[Row]) -> None:
        table = pa.concat_tables(
            pa.Table.from_pylist([dict(r) for r in rows[i : i + _AT_ONCE]], schema=self._schema)
            for i in range(0, len(rows), _AT_ONCE)
        )
        name = f"{rows[0]['time'].astimezone(UTC):%H%M%S%f}-{secrets.token_hex(4)}.parquet"
        write_atomically(
            self._folder / f"day={day}" / name,
            lambda file: pq.write_table(table, file, compression="zstd"),
            private=True,
        )
