"""Taking in: an export of one person, read into another platform, which then knows of them what the first one did.

What they chose goes into the ledger, then their events into the archive, judged by what they chose as any import is. Their
user key is made anew: another platform has another secret. Taking the same export in twice adds nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aap.consent.ledger.records import Entry
from aap.consent.ledger.signing import PublicKey
from aap.consent.policy import Status
from aap.consent.purposes import parse_purpose
from aap.events.importing.admission import admissions
from aap.events.schema import EVENT_TYPES, event_type
from aap.infra.duckdb import open_duckdb
from aap.privacy.data_inventory import Holdings
from aap.privacy.errors import UnusableExport
from aap.privacy.export import FORMAT, KIND
from aap.security.pseudonyms import load_pseudonyms

__all__ = ["TakenIn", "check_export", "take_in"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class TakenIn:
    """What became of an export."""

    choices: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    """By event type."""
    duplicates: int = 0
    refused: int = 0
    """Events that no grant covers; kept nowhere."""


def check_export(folder: Path, *, public_key: PublicKey | None = None) -> dict[str, Any]:
    """What `data.json` says, once every file is what the manifest says, and the manifest what the key signed, if given.

    Raises `UnusableExport`.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        signature = bytes.fromhex(manifest.pop("signature"))
        if manifest["format"] != FORMAT:
            raise ValueError("another format")
        for name, digest in manifest["files"].items():
            inside = (folder / name).resolve().is_relative_to(folder.resolve())
            if not inside or sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise UnusableExport(f"The file {name} of the export in {folder} was changed after it was written.")
        told: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UnusableExport):
            raise
        raise UnusableExport(f"{folder} holds no export of a person ({type(error).__name__}: {error}).") from None
    if public_key is not None and not public_key.signed(KIND, manifest, signature=signature):
        raise UnusableExport(f"The export in {folder} was not signed with this key.")
    return told


def take_in(held: Holdings, folder: Path, *, now: datetime, public_key: PublicKey | None = None) -> TakenIn:
    """Read the export in `folder` into these stores. Raises `UnusableExport`, and `NotYetInForce` when Redis is away."""
    told = check_export(folder, public_key=public_key)
    user_id = told.get("user_id")
    if not user_id:
        raise UnusableExport(
            f"The export in {folder} names nobody: it was made of a person without an entry in the id map."
        )
    key = load_pseudonyms(held.layout).user_key(user_id)
    done = TakenIn()
    try:
        entries = [_entry(choice, key) for choice in told["consents"]]
        tables = {n: _events(folder, n, key) for n in told["events"]}
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise UnusableExport(f"The export in {folder} can't be read ({type(error).__name__}: {error}).") from None
    done.choices = len(held.desk.record_many(entries, received_at=now))
    standing = held.desk.ledger.standing(subjects=[key])
    for name, table in tables.items():
        since = {a.subject: a.since for a in admissions(standing, events=[name], now=now)}.get(key)
        _store(held, name, table, since=since, done=done)
    if done.accepted:
        held.id_map.remember({key: user_id})
    return done


def _entry(choice: dict[str, Any], key: str) -> Entry:
    def moment(micros: int) -> datetime:
        return _EPOCH + timedelta(microseconds=micros)

    return Entry(
        key,
        parse_purpose(choice["purpose"]),
        Status(choice["status"]),
        moment(choice["indicated_at"]),
        choice["said_by"],
        choice["method"],
        choice["notice_version"],
        choice["notice_hash"],
        None if choice["expires_at"] is None else moment(choice["expires_at"]),
    )


def _events(folder: Path, name: str, key: str) -> pa.Table:
    if name not in EVENT_TYPES:
        raise ValueError("an event type that isn't declared here")
    table = pq.read_table(folder / "events" / f"{name}.parquet").select(event_type(name).arrow.names)
    mine = pa.array([key] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("user_key"), "user_key", mine).cast(event_type(name).arrow)


def _store(held: Holdings, name: str, table: pa.Table, *, since: datetime | None, done: TakenIn) -> None:
    """Archive what a grant covers and the archive doesn't have."""
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("taken", table)
        covered = f"occurred_at >= '{since.isoformat()}'::TIMESTAMPTZ" if since else "false"
        connection.execute(f"CREATE TEMP TABLE covered AS SELECT * FROM taken WHERE {covered}")
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT * FROM covered WHERE (source, id) NOT IN "
            f"(SELECT (source, id) FROM {held.archive.sql(name, on=connection)})"
        )
        counts = [connection.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in ("covered", "fresh")]
        done.refused += table.num_rows - counts[0]
        done.duplicates += counts[0] - counts[1]
        if counts[1]:
            digest = sha256("".join(sorted(table["id"].to_pylist())).encode()).hexdigest()[:16]
            held.archive.append(connection, {name: "fresh"}, batch=f"taken-in-{digest}")
            done.accepted[name] += counts[1]
