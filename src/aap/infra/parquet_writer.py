"""Batches: rows that are written to Parquet in the background, so that whoever adds them never waits for a disk.

One file a batch and day, `day=YYYY-MM-DD/<time>-<random>.parquet`, whole or not at all. Rows are written every
`every_s` seconds and on `close`; a process killed in between loses what it had not written. When the disk can't be
written, rows are kept up to `room` and counted as dropped beyond it: answering matters more than recording. So are those that
don't fit, and those that can't be written on `close`. What is logged of them names columns, never a value, which may be of a
person.

Rows are made into columns a few at a time as they come, rather than all when they are written: Python runs one thread at a
time, and who adds rows should never wait for thousands of them.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aap.infra.atomic_files import write_atomically
from aap.infra.errors import StorageError

__all__ = ["Batches"]

_log = logging.getLogger("aap.batches")

Row = Mapping[str, Any]
_TURN_S = 0.1
"""How often rows that came meanwhile are made into columns."""
_AT_ONCE = 100
"""Rows made into columns at once."""
_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What making columns raises; text that is no Unicode is a `ValueError` of Python's own."""


class Batches:
    """Rows of one schema on their way to `folder`. The schema has a column `time`: timestamp[us, UTC]."""

    def __init__(self, folder: Path, schema: pa.Schema, *, every_s: float = 1.0, room: int = 100_000) -> None:
        self._folder, self._schema, self._every_s, self._room = folder, schema, every_s, room
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._rows: list[Row] = []
        self._days: dict[str, list[pa.Table]] = {}
        """What is made into columns and not written yet, by day."""
        self._held = self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"batches:{folder.name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Rows lost since the start: for want of room, because they don't fit, or on `close`."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return self._held

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows to be written; returns at once and never raises."""
        with self._lock:
            taken = list(rows)
            excess = max(0, min(len(taken), self._held + len(taken) - self._room))
            self._rows.extend(taken[: len(taken) - excess])
            self._held += len(taken) - excess
            self._dropped += excess

    def flush(self) -> bool:
        """Write everything now; returns False, and keeps the rows, when the disk can't be written."""
        with self._writing:
            self._make_columns()
            written = [self._write_day(day) for day in list(self._days)]
            return all(written)

    def close(self) -> None:
        """Write what is left and stop; what can't be written now is lost, and counted as dropped."""
        self._closing.set()
        self._thread.join()
        if not self.flush():
            with self._writing:
                lost = sum(len(table) for tables in self._days.values() for table in tables)
                self._days.clear()
            _log.error("%d rows for %s are lost: they could not be written before the end.", lost, self._folder)
            self._let_go(lost, dropped=True)

    def _run(self) -> None:
        due = time.monotonic() + self._every_s
        while not self._closing.wait(min(_TURN_S, self._every_s)):
            if time.monotonic() >= due:
                self.flush()
                due = time.monotonic() + self._every_s
            else:
                with self._writing:
                    self._make_columns()

    def _make_columns(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
        days: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            at: datetime = row["time"]
            days[f"{at.astimezone(UTC):%Y-%m-%d}"].append(row)
        for day, ours in days.items():
            for first in range(0, len(ours), _AT_ONCE):
                piece = [dict(row) for row in ours[first : first + _AT_ONCE]]
                try:
                    table = pa.Table.from_pylist(piece, schema=self._schema)
                except _UNFIT as error:  # kept, they would block all others for ever
                    which, kind = self._unfit(piece), type(error).__name__
                    _log.error(
                        "%d rows for %s don't fit and are dropped: %s in %s.", len(piece), self._folder, kind, which
                    )
                    self._let_go(len(piece), dropped=True)
                else:
                    self._days.setdefault(day, []).append(table)

    def _unfit(self, rows: Sequence[Row]) -> str:
        """The columns whose values are not of their type."""
        found = []
        for column in self._schema:
            try:
                pa.array([row.get(column.name) for row in rows], type=column.type)
            except _UNFIT:
                found.append(column.name)
        return ", ".join(found) or "no column alone"

    def _write_day(self, day: str) -> bool:
        table = pa.concat_tables(self._days[day])
        name = f"{table['time'][0].as_py():%H%M%S%f}-{secrets.token_hex(4)}.parquet"
        try:
            write_atomically(
                self._folder / f"day={day}" / name,
                lambda file: pq.write_table(table, file, compression="zstd"),
                private=True,
            )
        except (OSError, StorageError) as error:
            _log.warning("%d rows wait to be written to %s: %s", len(table), self._folder, error)
            return False
        del self._days[day]
        self._let_go(len(table))
        return True

    def _let_go(self, rows: int, *, dropped: bool = False) -> None:
        with self._lock:
            self._held -= rows
            self._dropped += rows if dropped else 0
