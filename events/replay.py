"""Replay: the rejected rows once more through the importer, after a mapping or a consent was put right.

Only rows that came in by a mapping file that still exists can be tried. What fits now is taken in, what consent refuses
now is dropped, and both leave the log; what still doesn't fit stays, with the reason it has now.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from events.importer import Importer, ImportReport
from events.mapping import Mapping, load_mapping
from events.rejected import Rejected, RejectedLog
from storage.files import explain_full_disk

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the rejected rows."""

    tried: int
    accepted: int
    left: int
    """Entries the log has now, tried or not."""


def replay(importer: Importer, *, now: datetime) -> Replayed:
    """Try every rejected row of a mapping file that still exists; raises what an import raises, row by row undone."""
    by_door: dict[str, list[Rejected]] = defaultdict(list)
    for entry in importer.rejected.list():
        by_door[entry.door].append(entry)
    tried = accepted = 0
    for door, entries in by_door.items():
        if Path(door).is_file():
            tried += len(entries)
            accepted += _again(importer, Path(door), entries, now=now).accepted.total()
    return Replayed(tried, accepted, len(importer.rejected.list()))


def _again(importer: Importer, door: Path, entries: Sequence[Rejected], *, now: datetime) -> ImportReport:
    mapping = load_mapping(door)
    with tempfile.TemporaryDirectory(dir=importer.rejected.folder, prefix=".replay-") as folder:
        rows, still = Path(folder) / "rows.parquet", RejectedLog(Path(folder) / "still.db")
        with explain_full_disk(rows):
            pq.write_table(_table(mapping, entries), rows)
        report = replace(importer, rejected=still).run(
            str(rows), mapping, beside=door.parent, now=now, door=str(door), keyed=True
        )
        unfit = still.list()
    # First what is new, then what is done with: a crash in between doubles a row, and loses none.
    importer.rejected.add(unfit)
    left = {_identity(entry) for entry in unfit}
    importer.rejected.remove([e.number for e in entries if _identity(e) not in left])
    return report


def _table(mapping: Mapping, entries: Sequence[Rejected]) -> pa.Table:
    """The rows as text, with the user key where the user was."""
    columns = {c: pa.array([_text(e.payload.get(c)) for e in entries], pa.string()) for c in mapping.columns}
    columns[str(mapping.user_id)] = pa.array([e.user_key for e in entries], pa.string())
    return pa.table(columns)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _identity(entry: Rejected) -> tuple[str, str, str]:
    return entry.reason, entry.user_key, json.dumps(entry.payload, sort_keys=True, default=str)
