"""Export: everything held of a person, for machines (JSON and Parquet, with a schema) and for the person (a page to read).

The folder is signed: `manifest.json` names every file with its SHA-256. `aap.privacy.import_export` reads it into another
platform.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aap.consent.ledger.records import fields_of
from aap.consent.ledger.signing import load_signer
from aap.consent.purposes import Purpose, spec
from aap.events.schema import event_type, json_schema
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.offline.store import last_build
from aap.features.offline.writer import bucket_of
from aap.features.online import reader
from aap.features.views import View, all_views
from aap.infra.atomic_files import private_folder, write_atomically
from aap.modeling.catalog import model_classes
from aap.privacy.data_inventory import Holdings
from aap.privacy.export_page import page
from aap.privacy.parquet_subjects import read_rows
from aap.security.api_keys import ApiKeys
from aap.security.audit_log import reads_of

__all__ = ["FORMAT", "KIND", "collect", "write_export"]

FORMAT, KIND = "aap person export 1", "person export"
_READS = pa.schema([(name, pa.string()) for name in ("user_key", "time", "who", "what", "purpose")])


def collect(held: Holdings, user_key: str, *, now: datetime) -> dict[str, Any]:
    """Everything held of one person, JSON-ready. Nothing is left out because consent ended: it is theirs."""
    return {
        "format": FORMAT,
        "exported_at": now.isoformat(),
        "controller": held.settings.controller,
        "user_id": held.id_map.reveal(user_key),
        "user_key": user_key,
        "consents": [fields_of(r.seq, r.entry, r.received_at) for r in held.desk.ledger.history(user_key)],
        "decisions": _decisions(held, user_key, now=now),
        "events": {name: _plain(table) for name, table in held.archive.of(user_key).items()},
        "live_events": [_live(event) for event in held.log.of(user_key)],
        "rejected": [
            {"event": r.event, "reason": r.reason, "row": r.payload, "at": r.rejected_at.isoformat()}
            for r in held.rejected.of(user_key)
        ],
        "features": _features(held, user_key, now=now),
        "predictions": _rows(held.layout.predictions, user_key),
        "exposures": _rows(held.layout.exposures, user_key),
        "alerts": _rows(held.layout.alerts, user_key),
        "served": _rows(held.layout.served, user_key),
        "trained_on_by": [
            {"model": v.name, "version": v.version, "aliases": list(v.aliases)}
            for name in model_classes()
            for v in held.registry.trained_on(name, user_key)
        ],
        "reads": _reads(held, user_key),
    }


def write_export(held: Holdings, user_key: str, *, into: Path, now: datetime) -> dict[str, Any]:
    """Write the export to the folder `into`, readable by its owner alone; returns what `collect` gave."""
    told = collect(held, user_key, now=now)
    files = {
        "data.json": json.dumps(told, indent=1, ensure_ascii=False).encode(),
        "schema.json": json.dumps(_schema(), indent=1).encode(),
        "report.html": page(told).encode(),
        **{f"events/{name}.parquet": _parquet(table) for name, table in held.archive.of(user_key).items()},
        **_feature_files(held, user_key),
        **_reads_file(told["reads"], user_key),
    }
    private_folder(into)
    for name, content in files.items():
        write_atomically(into / name, content, private=True)
    signer = load_signer(held.layout)
    manifest = {
        "format": FORMAT,
        "exported_at": told["exported_at"],
        "files": {name: sha256(content).hexdigest() for name, content in sorted(files.items())},
        "key_id": signer.public.id,
    }
    manifest["signature"] = signer.sign(KIND, manifest).hex()
    write_atomically(into / "manifest.json", json.dumps(manifest, indent=1).encode(), private=True)
    return told


def _reads(held: Holdings, user_key: str) -> list[dict[str, Any]]:
    """Who read or did what with their data, for which purpose, and when, as the audit log has it."""
    keys = held.layout.api_keys
    names = {key.id: f"API key {key.name!r}" for key in ApiKeys(keys).list()} if keys.exists() else {}
    found = []
    for entry in reads_of(held.layout.audit, user_key):
        what, _, purpose = entry["action"].rpartition(", ")
        known = bool(what) and purpose in set(Purpose)
        found.append(
            {
                "time": entry["time"],
                "who": names.get(entry["by"], entry["by"]),
                "what": what if known else entry["action"],
                "purpose": purpose if known else None,
            }
        )
    return found


def _reads_file(reads: list[dict[str, Any]], user_key: str) -> dict[str, bytes]:
    rows = [{"user_key": user_key, **read} for read in reads]
    return {"reads.parquet": _parquet(pa.Table.from_pylist(rows, schema=_READS))} if rows else {}


def _decisions(held: Holdings, user_key: str, *, now: datetime) -> list[dict[str, Any]]:
    made = [held.desk.decision(user_key, p, now=now) for p in Purpose]
    return [
        {
            "purpose": d.purpose.value,
            "means": spec(d.purpose).explanation,
            "allowed": d.allowed,
            "reason": d.reason.value,
        }
        for d in made
    ]


def _features(held: Holdings, user_key: str, *, now: datetime) -> list[dict[str, Any]]:
    """Each value as it is read now, with what it means; null with its status where there is none."""
    found = []
    for view in (v for v in all_views() if v.entity is Entity.USER):
        read = reader.read(held.client, view, [user_key], purposes=[view.purpose], now=now)
        values = zip(view.numbers, read.values[0].tolist(), read.status[0].tolist(), strict=True)
        for feature, value, status in values:
            there = status == Status.PRESENT
            found.append(_feature(view, feature, value if there else None, Status(status).name.lower()))
        for feature, lists in zip(view.sequences, read.sequences, strict=True):
            found.append(_feature(view, feature, lists[0] or None, "present" if lists[0] else "not_found"))
    return found


def _feature(view: View, feature: Any, value: object, status: str) -> dict[str, Any]:
    return {
        "name": feature.name,
        "purpose": view.purpose.value,
        "means": feature.description,
        "unit": feature.unit,
        "value": value,
        "status": status,
    }


def _feature_files(held: Holdings, user_key: str) -> dict[str, bytes]:
    """The values at every moment they changed, as they are kept for training."""
    built = [v for view in all_views() if view.entity is Entity.USER and (v := last_build(held.features, view))]
    found = {
        values.view.name: values.rows_of(piece).filter(pc.field("user_key") == user_key)
        for values in built
        for piece in values.pieces
        if piece.name[0] == bucket_of(user_key)
    }
    return {f"features/{name}.parquet": _parquet(rows) for name, rows in found.items() if rows.num_rows}


def _live(event: Any) -> dict[str, Any]:
    moments = {
        n: datetime.fromtimestamp(getattr(event, n) / 1e6, UTC).isoformat() for n in ("occurred_at", "available_at")
    }
    return {"source": event.source, "id": event.id, "type": event.type, **moments, **event.fields}


def _rows(folder: Path, user_key: str) -> list[dict[str, Any]]:
    tables = [table for _, table in read_rows(folder, user_key)]
    return sorted((row for table in tables for row in _plain(table)), key=lambda row: str(row["time"]))


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON has them: moments in ISO 8601; no NaN."""
    return [{k: _value(v) for k, v in row.items() if k != "user_key"} for row in table.to_pylist()]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and value != value:
        return None
    return [_value(v) for v in value] if isinstance(value, list) else value


def _parquet(table: pa.Table) -> bytes:
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _schema() -> Mapping[str, Any]:
    """What the machine-readable files hold: the events' own JSON Schemas, and what each part of data.json is."""
    from aap.events.schema import EVENT_TYPES

    return {
        "format": FORMAT,
        "data.json": {
            "consents": "ledger records; moments are microseconds since 1970, UTC",
            "decisions": "what is allowed now, purpose by purpose, and why",
            "events": "by type; money is in minor units (cents)",
            "live_events": "accepted and not archived yet",
            "rejected": "rows that didn't fit, with the reason",
            "features": "values as read now; `means` says what each is",
            "predictions": "answers given, the model's version, and the values they rest on",
            "exposures": "experiments the person was shown a variant of",
            "alerts": "what was found unusual, by which model, and why",
            "served": "values handed out to a model that were kept to be checked",
            "reads": "who read or did what with their data, for which purpose, and when; reads by one caller within two "
            "seconds are one entry",
            "trained_on_by": "model versions fitted on rows of the person",
        },
        "events": {name: json_schema(event_type(name)) for name in EVENT_TYPES},
    }
