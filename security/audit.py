"""The audit log: who did or tried what at the guarded doors, as JSON lines, one file a day.

An entry names a key, never a person. The same thing done many times within seconds is one entry with a count, so a
flood of refused calls can't fill the disk. Answers aren't here: each has a prediction record.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.errors import StorageError
from storage.files import private_folder

__all__ = ["Audit", "read_audit"]

_log = logging.getLogger("aap.audit")
_MOST_KINDS = 1_000
_Kind = tuple[str, str, str]


class Audit:
    """The log under `folder`. `note` takes an entry at once; `flush` writes, and is called every few seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: Counter[_Kind] = Counter()
        self._since: dict[_Kind, datetime] = {}

    def note(self, action: str, *, by: str, outcome: str, at: datetime) -> None:
        """Take one entry: what was done or tried, by which key, and what came of it."""
        kind = (action, by, outcome)
        with self._lock:
            if kind not in self._waiting and len(self._waiting) >= _MOST_KINDS:
                kind = ("other", "several", "several")
            self._waiting[kind] += 1
            self._since.setdefault(kind, at)

    def flush(self) -> None:
        """Write what is waiting. A disk that can't be written keeps it waiting, and says so in the service's log."""
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
            since, self._since = self._since, {}
        if not waiting:
            return
        days: dict[str, list[str]] = {}
        for kind, count in waiting.items():
            action, by, outcome = kind
            at = since[kind]
            entry = {"time": at.isoformat(), "action": action, "by": by, "outcome": outcome, "count": count}
            days.setdefault(f"{at:%Y-%m-%d}", []).append(json.dumps(entry) + "\n")
        try:
            for day, lines in days.items():
                self._append(day, "".join(lines).encode())
        except (OSError, StorageError) as error:
            _log.warning("The audit log in %s can't be written (%s); its entries wait.", self._folder, error)
            with self._lock:
                self._waiting.update(waiting)
                self._since = since | self._since

    def _append(self, day: str, lines: bytes) -> None:
        private_folder(self._folder)
        # One write to a file opened for appending: entries of several processes never mix within a line.
        place = os.open(self._folder / f"{day}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(place, lines)
        finally:
            os.close(place)


def read_audit(folder: Path, *, days: int) -> Iterator[dict[str, Any]]:
    """The entries of the newest `days` files, oldest first; a line cut short by a crash is left out."""
    for file in sorted(folder.glob("*.jsonl"))[-days:]:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
