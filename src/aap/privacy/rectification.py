"""Rectification: one past event is corrected, and everything made from it follows.

The event keeps its source, id and the moment it became known, so the next build gives what would have been built had it
been right from the start, and importing the uncorrected table again doesn't bring the mistake back. Until that build the
values are the old ones. What was corrected is told by field names alone, in a signed note.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aap.consent.ledger.signing import load_signer
from aap.consent.ledger.tombstones import person_digest
from aap.events.errors import InvalidEvent
from aap.events.schema import EventType, Kind, event_type
from aap.events.validation import stored_fields
from aap.infra.duckdb import open_duckdb
from aap.infra.locks import hold
from aap.modeling.catalog import model_classes
from aap.privacy.certificates import write_certificate
from aap.privacy.data_inventory import Holdings
from aap.privacy.errors import UnusableCorrection

__all__ = ["KIND", "rectify"]

KIND = "correction"


def rectify(
    held: Holdings,
    user_key: str,
    *,
    source: str,
    event_id: str,
    changes: Mapping[str, Any],
    occurred_at: datetime | None = None,
    now: datetime,
) -> dict[str, Any]:
    """Correct the archived event (`source`, `event_id`) of one person; returns the signed note.

    `changes` are properties as they are sent (money in the currency's main unit); null takes a value out. Raises
    `UnusableCorrection`, and `LockHeld` while an import runs.
    """
    if not changes and occurred_at is None:
        raise UnusableCorrection("Nothing is to be corrected: name a field, or the moment it occurred.")
    if occurred_at is not None and not datetime(1970, 1, 1, tzinfo=UTC) <= occurred_at <= now:
        raise UnusableCorrection(f"An event can't have occurred at {occurred_at.isoformat()}: name a past moment.")
    with hold(held.layout.run / "import.lock", what="an import", wait_s=10.0):
        declared, row = _find(held, user_key, source=source, event_id=event_id)
        corrected = row | _corrected(declared, row, changes) | ({"occurred_at": occurred_at} if occurred_at else {})
        _replace(held, declared, row, corrected)
    models = [v for name in model_classes() for v in held.registry.trained_on(name, user_key)]
    for version in models:
        held.registry.taint(version, why="an event it was trained on was corrected", at=now)
    return _note(held, user_key, declared, [*changes, *(["occurred_at"] if occurred_at else [])], len(models), now=now)


def _find(held: Holdings, user_key: str, *, source: str, event_id: str) -> tuple[EventType, dict[str, Any]]:
    for name, table in held.archive.of(user_key).items():
        for row in table.to_pylist():
            if (row["source"], row["id"]) == (source, event_id):
                return event_type(name), row
    raise UnusableCorrection(
        f"This person has no archived event {event_id!r} of {source!r}: `aap export` lists source and id of each."
    )


def _corrected(declared: EventType, row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The stored form of the event's fields, checked as a new event's are."""
    sent = {f.name: _as_sent(f.kind, row[f.name]) for f in declared.fields if row[f.name] is not None}
    try:
        return dict(stored_fields(declared, {**sent, **changes}))
    except InvalidEvent as error:
        raise UnusableCorrection(f"The event can't be corrected so: {error}.") from None


def _as_sent(kind: Kind, value: Any) -> Any:
    return f"{value // 100}.{value % 100:02}" if kind is Kind.MONEY else value


def _replace(held: Holdings, declared: EventType, row: Mapping[str, Any], corrected: Mapping[str, Any]) -> None:
    """First the corrected one in, then the old one out of every file: after a crash in between, correcting again mends it."""
    before = held.archive.files(declared.name)
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("one", pa.Table.from_pylist([dict(corrected)], schema=declared.arrow))
        connection.execute("CREATE TEMP TABLE corrected AS SELECT * FROM one")
        held.archive.append(connection, {declared.name: "corrected"}, batch=f"corrected-{secrets.token_hex(6)}")
    old = (pc.field("source") == row["source"]) & (pc.field("id") == row["id"])
    held.archive.rewrite(lambda _, table: table.filter(~old), files=before)


def _note(
    held: Holdings, user_key: str, declared: EventType, fields: list[str], models: int, *, now: datetime
) -> dict[str, Any]:
    signer = load_signer(held.layout)
    content = {
        "kind": KIND,
        "person": person_digest(user_key),
        "controller": held.settings.controller,
        "corrected_at": now.isoformat(),
        "event": declared.name,
        "fields": sorted(fields),
        "model_versions_marked": models,
        "key_id": signer.public.id,
    }
    note = {**content, "signature": signer.sign(KIND, content).hex()}
    write_certificate(note, folder=held.layout.certificates, what=KIND, at=now)
    return note
