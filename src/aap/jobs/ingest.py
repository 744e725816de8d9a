"""Bringing data in, and remembering from where, so that the weekly retrain can bring in what is new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from aap.config import Settings
from aap.consent.service import open_desk, open_ledger
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.importing.dead_letter_retry import Replayed, replay
from aap.events.importing.importer import Importer, ImportReport, Progress
from aap.events.importing.mapping import load_mapping, resolve
from aap.events.streaming.archiver import Admitted, Drained, drain
from aap.events.streaming.event_log import REMEMBERED_US, RedisStreamLog
from aap.infra.atomic_files import write_atomically
from aap.infra.duckdb import open_duckdb
from aap.infra.locks import hold
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.infra.timestamps import to_micros
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms

__all__ = [
    "RememberedSource",
    "archive_live_events",
    "import_again",
    "import_source",
    "import_what_is_new",
    "open_importer",
    "remembered_sources",
    "replay_rejected",
]


_DRAIN_S = 2.0
"""How long an import waits for a lock that live features hold now and then, to write the archive."""


@dataclass(frozen=True, slots=True)
class RememberedSource:
    """A table that was imported once, and what it looked like then."""

    location: str
    mapping: str
    table: str | None
    fingerprint: str
    """Size and time of the file's last change, or empty for a database: those are always read again."""


def open_importer(settings: Settings) -> Importer:
    """The importer over the stores these settings name."""
    layout = Layout(settings.home)
    return Importer(
        archive=Archive(archive_folder(settings)),
        rejected=RejectedLog(layout.rejected),
        desk=open_desk(settings),
        pseudonyms=load_pseudonyms(layout),
        id_map=open_id_map(settings),
        catalogue=layout.catalogue,
    )


def import_source(
    settings: Settings,
    location: str,
    *,
    mapping: Path,
    table: str | None = None,
    now: datetime,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the table at `location` and remember it. One import at a time; a second raises `LockHeld`."""
    layout = Layout(settings.home)
    with hold(layout.run / "import.lock", what="an import", wait_s=_DRAIN_S):
        report = open_importer(settings).run(
            location,
            load_mapping(mapping),
            beside=mapping.parent,
            now=now,
            table=table,
            progress=progress,
            door=str(mapping.resolve()),
        )
        _tell_log(settings, now=now)
        _remember(layout, RememberedSource(_lasting(location), str(mapping.resolve()), table, _fingerprint(location)))
    return report


def archive_live_events(
    settings: Settings, *, now: datetime, admitted: Admitted | None = None, wait_s: float = 60.0
) -> Drained:
    """Move what the live log accepted into the archive. One at a time, like an import.

    `admitted` may be kept from one time to the next. Raises `LockHeld` when others are at it for longer than `wait_s`.
    """
    layout = Layout(settings.home)
    with hold(layout.run / "import.lock", what="an import", wait_s=wait_s):
        log = RedisStreamLog(connect(settings))
        return drain(log, Archive(archive_folder(settings)), open_ledger(settings), now=now, admitted=admitted)


def _tell_log(settings: Settings, *, now: datetime) -> None:
    """Have the log know what was imported: an id that is also sent live is a duplicate, and live features begin anew."""
    log, archive = RedisStreamLog(connect(settings)), Archive(archive_folder(settings))
    at = to_micros(now)
    with open_duckdb() as connection:
        for event in archive.types():
            stored = archive.sql(event, on=connection)
            found = connection.execute(
                f"SELECT source, id, user_key FROM {stored} WHERE epoch_us(occurred_at) > {at - REMEMBERED_US}"
            )
            while rows := found.fetchmany(50_000):
                log.remember(rows, at=at)
    log.mark_import()


def replay_rejected(settings: Settings, *, now: datetime) -> Replayed:
    """Try the rejected rows again. One at a time, like an import; while one runs, `LockHeld` is raised."""
    with hold(Layout(settings.home).run / "import.lock", what="an import"):
        return replay(open_importer(settings), now=now)


def remembered_sources(settings: Settings) -> list[RememberedSource]:
    """Every table imported so far, in the order of its first import."""
    file = _file(Layout(settings.home))
    return [RememberedSource(**entry) for entry in json.loads(file.read_text())] if file.is_file() else []


def import_again(settings: Settings, *, now: datetime) -> list[ImportReport]:
    """Import every remembered table that changed since; what is known already adds nothing."""
    changed = [
        s for s in remembered_sources(settings) if not s.fingerprint or s.fingerprint != _fingerprint(s.location)
    ]
    return [
        import_source(settings, s.location, mapping=Path(s.mapping), table=s.table, now=now)
        for s in changed
        if s.fingerprint == "" or Path(resolve(s.location)).exists()
    ]


def import_what_is_new(settings: Settings, *, now: datetime) -> dict[str, Any]:
    """Both of these, as every job begins: the report of the live log, and one a table that changed; JSON-ready."""
    live = archive_live_events(settings, now=now)
    return {"live": _plain(live), "sources": [_plain(report) for report in import_again(settings, now=now)]}


def _plain(report: Drained | ImportReport) -> dict[str, Any]:
    # Not by `asdict`: it makes a Counter anew from its pairs, and so counts the pairs.
    found = {field.name: getattr(report, field.name) for field in fields(report)}
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in found.items()}


def _file(layout: Layout) -> Path:
    return layout.run / "imports.json"


def _remember(layout: Layout, source: RememberedSource) -> None:
    file = _file(layout)
    known = [RememberedSource(**entry) for entry in json.loads(file.read_text())] if file.is_file() else []
    same = (source.location, source.mapping, source.table)
    kept = [source if (k.location, k.mapping, k.table) == same else k for k in known]
    if source not in kept:
        kept.append(source)
    write_atomically(file, json.dumps([asdict(k) for k in kept], indent=1).encode(), private=True)


def _lasting(location: str) -> str:
    """The location as it can be found again from any folder."""
    return location if "://" in location or location.startswith("package:") else str(Path(location).resolve())


def _fingerprint(location: str) -> str:
    if "://" in location:
        return ""
    path = Path(resolve(location))
    return f"{path.stat().st_size}:{path.stat().st_mtime_ns}" if path.exists() else "missing"
