"""Retention: what no purpose may use any more is deleted, and counted.

An event stays while some purpose that may touch its type is granted now by a grant that covers it, and the event is no
older than that purpose keeps things. So a withdrawal, an expiry and mere age all end the same way. Records of answers,
exposures and rejected rows go by age, and the id of somebody of whom nothing is left goes with them. What a restored
backup brought back of a person who was erased goes too: their tombstone ends every grant before it, and every record.
Features follow with the next build; what is online expires by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aap.consent.policy import Grant, Reason
from aap.consent.purposes import Purpose, spec
from aap.events.schema import event_type
from aap.experiments.assignment.assigner import PURPOSE as EXPERIMENTS
from aap.features.quality.served_vectors import Served
from aap.infra.atomic_files import explain_full_disk, write_atomically
from aap.infra.duckdb import open_duckdb
from aap.infra.locks import hold
from aap.infra.object_store import StoredFile
from aap.infra.paths import Layout
from aap.privacy.data_inventory import Holdings
from aap.security.audit_subjects import Subjects

__all__ = ["Retained", "retain"]

_LONGEST = max(spec(p).retention for p in Purpose)
_NEVER = datetime.min.replace(tzinfo=UTC)

Standing = Mapping[str, Mapping[Purpose, tuple[list[Grant], Reason]]]


@dataclass(slots=True)
class Retained:
    """What was deleted, or would be, and what is left."""

    deleted: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    ids_forgotten: int = 0


def retain(
    held: Holdings, *, now: datetime, dry_run: bool = False, progress: Callable[[int, int], None] | None = None
) -> Retained:
    """Delete what is past its time at `now`; with `dry_run` only count. Raises `LockHeld` while an import runs."""
    done = Retained()
    with hold(held.layout.run / "import.lock", what="an import"):
        standing = held.desk.ledger.standing(in_force_at=now)
        types = held.archive.types()
        for place, event in enumerate(types):
            _events(held, event, standing, now=now, done=done, dry_run=dry_run)
            if progress:
                progress(place + 1, len(types) + 1)
        for name, (folder, kept_for) in _records(held.layout).items():
            for file in sorted(folder.rglob("*.parquet")):
                _by_age(held, file, name, kept_for, now=now, done=done, dry_run=dry_run)
        _served(held, standing, now=now, done=done, dry_run=dry_run)
        _rejected(held, now=now, done=done, dry_run=dry_run)
        _readers(held, now=now, done=done, dry_run=dry_run)
        if not dry_run:
            done.ids_forgotten = _forget_ids(held, standing)
    if progress:
        progress(len(types) + 1, len(types) + 1)
    return done


def _events(held: Holdings, event: str, standing: Standing, *, now: datetime, done: Retained, dry_run: bool) -> None:
    """One event type: whoever may still be used, and since when."""
    found = [
        (subject, max(grant.start, now - spec(p).retention))
        for subject, by_purpose in standing.items()
        for p in event_type(event).purposes
        for grant in by_purpose[p][0]
    ]
    moments = pa.array([since for _, since in found], pa.timestamp("us", tz="UTC"))
    allowed = pa.table({"subject": pa.array([s for s, _ in found], pa.string()), "since": moments})
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("allowed_now", allowed)
        connection.execute(
            "CREATE TEMP TABLE allowed AS SELECT subject, min(since) AS since FROM allowed_now GROUP BY 1"
        )
        empty: list[str] = []

        def still_allowed(file: StoredFile, table: pa.Table) -> pa.Table:
            connection.register("held", table)
            kept = connection.execute(
                "SELECT held.* FROM held JOIN allowed ON subject = user_key AND occurred_at >= since ORDER BY occurred_at"
            ).to_arrow_table()
            done.kept[event] += kept.num_rows
            done.deleted[event] += table.num_rows - kept.num_rows
            if not kept.num_rows:
                empty.append(file.name)
            return table if dry_run else kept.cast(table.schema)

        held.archive.rewrite(still_allowed, files=held.archive.files(event))
        if not dry_run:
            held.archive.folder.remove(empty)


def _records(layout: Layout) -> dict[str, tuple[Path, Callable[[str], timedelta]]]:
    """Folders of rows with a `time`, and how long a row of each purpose is kept."""
    return {
        "exposures": (layout.exposures, lambda _: spec(EXPERIMENTS).retention),
        "predictions": (layout.predictions, lambda purpose: spec(Purpose(purpose)).retention),
        "alerts": (layout.alerts, lambda _: spec(Purpose.ESSENTIAL_FRAUD_DETECTION).retention),
    }


def _by_age(
    held: Holdings,
    file: Path,
    name: str,
    kept_for: Callable[[str], timedelta],
    *,
    now: datetime,
    done: Retained,
    dry_run: bool,
) -> None:
    table = pq.read_table(file, partitioning=None)
    named = table["consent_purpose"].to_pylist() if "consent_purpose" in table.column_names else [""] * len(table)
    keys, moments = table["user_key"].to_pylist(), table["time"].to_pylist()
    erased = held.tombstones.erased({key for key in keys if key})
    stays = [
        moment >= now - kept_for(purpose) and moment > erased.get(key, _NEVER)
        for key, moment, purpose in zip(keys, moments, named, strict=True)
    ]
    kept = table.filter(pa.array(stays, pa.bool_()))
    done.kept[name] += kept.num_rows
    done.deleted[name] += table.num_rows - kept.num_rows
    if not dry_run and kept.num_rows < table.num_rows:
        _leave(file, kept)


def _served(held: Holdings, standing: Standing, *, now: datetime, done: Retained, dry_run: bool) -> None:
    sample = Served(held.layout.served, timedelta(days=held.settings.served_sample_days))
    with hold(held.layout.run / "consistency.lock", what="a consistency check"):
        before, kept = sample.count(), sample.usable(standing=standing, now=now).num_rows
        done.kept["served"] += kept
        done.deleted["served"] += before - kept
        if not dry_run:
            sample.sweep(standing=standing, now=now)


def _rejected(held: Holdings, *, now: datetime, done: Retained, dry_run: bool) -> None:
    entries = held.rejected.list()
    erased = held.tombstones.erased({e.user_key for e in entries})
    old = [e.number for e in entries if not now - _LONGEST <= e.rejected_at > erased.get(e.user_key, _NEVER)]
    done.deleted["rejected"] += len(old)
    done.kept["rejected"] += len(entries) - len(old)
    if not dry_run:
        held.rejected.remove(old)


def _readers(held: Holdings, *, now: datetime, done: Retained, dry_run: bool) -> None:
    """Let nobody tell any more who read what of people of whom nothing was read for so long, or who were erased since."""
    subjects = Subjects(held.layout.audit)
    last = subjects.last_entries()
    erased = held.tombstones.erased(last)
    old = [k for k, day in last.items() if not (now - _LONGEST).date() <= day > erased.get(k, _NEVER).date()]
    done.deleted["audit"] += len(old)
    done.kept["audit"] += len(last) - len(old)
    for key in () if dry_run else old:
        subjects.forget(key)


def _forget_ids(held: Holdings, standing: Standing) -> int:
    """Let go of the ids of people who allow nothing any more and of whom no event is left."""
    left: set[str] = set()
    for event in held.archive.types():
        with open_duckdb() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT user_key FROM {held.archive.sql(event, on=connection)}"
            ).fetchall()
        left |= {r[0] for r in rows}
    gone = [k for k in held.id_map.user_keys() if k not in left and not _allows_anything(standing.get(k))]
    for key in gone:
        held.id_map.forget(key)
    return len(gone)


def _allows_anything(by_purpose: Mapping[Purpose, tuple[list[Grant], Reason]] | None) -> bool:
    """Whether a purpose that rests on consent is granted; legitimate interest alone is no reason to keep an id."""
    return any(found for p, (found, _) in (by_purpose or {}).items() if spec(p).needs_consent)


def _leave(file: Path, kept: pa.Table) -> None:
    """Leave `kept` in the file; no file where nothing is left."""
    if not kept.num_rows:
        file.unlink()
        return
    private = not file.stat().st_mode & 0o077
    with explain_full_disk(file):
        write_atomically(file, lambda target: pq.write_table(kept, target, compression="zstd"), private=private)
