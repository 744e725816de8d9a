"""Replay: the rejected rows once more through the importer, after a mapping or a consent was put right.

Only rows that came in by a mapping file that still exists can be tried, a door's consent choices before its events: those
may rest on them. What fits now is taken in, what consent refuses
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

from aap.events.dead_letter import Rejected, RejectedLog
from aap.events.importing.consent_table import CHOICE
from aap.events.importing.importer import Importer, ImportReport
from aap.events.importing.mapping import Mapping, load_mapping
from aap.infra.atomic_files import explain_full_disk

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
        if not Path(door).is_file():
            continue
        mapping = load_mapping(Path(door))
        for one, theirs in (
            (_of_choices(mapping), [e for e in entries if e.event == CHOICE]),
            (mapping if mapping.event else None, [e for e in entries if e.event != CHOICE]),
        ):
            if one is not None and theirs:
                report = _again(importer, one, Path(door), theirs, now=now)
                tried += len(theirs)
                accepted += report.accepted.total() + report.choices
    return Replayed(tried, accepted, len(importer.rejected.list()))


def _of_choices(mapping: Mapping) -> Mapping | None:
    """The mapping of the consent choices that `mapping` brings in, if it does."""
    table = mapping.choices or (mapping.consent.table if mapping.consent else None)
    return None if table is None else Mapping(source=mapping.source, choices=table)


def _again(
    importer: Importer, mapping: Mapping, door: Path, entries: Sequence[Rejected], *, now: datetime
) -> ImportReport:
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
    columns[str(mapping.choices.user_id if mapping.choices else mapping.user_id)] = pa.array(
        [e.user_key for e in entries], pa.string()
    )
    return pa.table(columns)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _identity(entry: Rejected) -> tuple[str, str, str]:
    return entry.reason, entry.user_key, json.dumps(entry.payload, sort_keys=True, default=str)
