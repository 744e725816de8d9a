"""Holdings: every place that may hold something of a person, opened together; the one list that the rights go by.

Whoever adds a place that stores people adds it to `places`. `FILES` and `KEYS` list every place the platform writes to, with
what it may hold of people: a test watches the file system and Redis while everything runs, and fails when something appears
that isn't there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import redis

from aap.config import Settings
from aap.consent import redis_projection
from aap.consent.ledger.tombstones import Tombstones, open_tombstones
from aap.consent.service import ConsentDesk, open_desk
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.event_log import RedisStreamLog
from aap.features.offline.erasure import forget
from aap.features.online import reader
from aap.features.quality.served_vectors import Served
from aap.infra.object_store import Folder, StoredFile, archive_folder, features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.modeling.registry.registry import Registry, open_registry
from aap.privacy.parquet_subjects import count_rows, erase_rows
from aap.security.audit_subjects import Subjects
from aap.security.id_map import IdMap, open_id_map

__all__ = ["FILES", "KEYS", "Holdings", "Place", "open_holdings", "places", "unlisted_file", "unlisted_key"]

FILES: dict[str, str] = {
    "aap.env": "settings",
    "aggregates": "sums over many people of a day",
    "alerts": "what was found unusual, by user key",
    "archive": "events, by user key, sealed under the keyring",
    "catalogue": "items, nobody",
    "consent": "the ledger, by user key",
    "exposures": "first exposures to experiments, by user key",
    "feast": "declarations, nobody",
    "features": "values of people by user key, and of items over many people",
    "keys": "secrets: of pseudonyms and signatures; the root key, and below it in `ring` the keys it wraps",
    "logs": "nobody",
    "mlflow": "models, which hold nobody; digests of whom they were fitted on",
    "predictions": "answers, by user key where consent allowed them",
    "privacy": "digests of the erased, certificates",
    "redis": "what Redis holds",
    "rejected": "rows that didn't fit, by user key",
    "reports": "figures over many people",
    "run": "locks, and what the background processes are",
    "security": "ids, each under a key of its own, which the keyring wraps; hashes of API keys, and what was done with "
    "them; a secret for each user key that was read, by which they find the entries about them",
    "served": "a sample of served vectors, by user key",
    "shadow": "sums over many answers",
    "sources": "tables that were imported, by place",
    "tuning": "settings tried and their scores, nobody",
    "vitals": "sums over many answers",
}
"""First part of a path below the home, and what is there."""

KEYS: dict[str, str] = {
    r"\{u:[0-9a-f]{32}\}:(c|x|f:[a-z_.]+|s:[a-z_.]+)": "a person: consent, assignments, a row and its timetable a purpose",
    r"\{i:.+\}:f:[a-z_.]+": "an item's row, over many people",
    r"\{log:\d+\}:.+": "the live log, by user key, and the places of those who read it",
    r"live:.+": "the live workers, nobody",
    r"consent:.+": "how far the ledger is projected, nobody",
    r"experiment:.+": "what experiments are doing, nobody",
    r"rate:.+": "calls a key has left, nobody",
}
"""What a Redis key looks like, whole, and what it holds."""

_KEYS = [re.compile(pattern) for pattern in KEYS]


@dataclass(frozen=True, slots=True)
class Holdings:
    """The stores of one home."""

    settings: Settings
    layout: Layout
    client: redis.Redis
    desk: ConsentDesk
    archive: Archive
    features: Folder
    log: RedisStreamLog
    rejected: RejectedLog
    id_map: IdMap
    tombstones: Tombstones
    registry: Registry


@dataclass(frozen=True, slots=True)
class Place:
    """One place: how much it holds of one person, and how that is erased."""

    name: str
    method: str
    count: Callable[[], int]
    erase: Callable[[], object]


def open_holdings(settings: Settings) -> Holdings:
    """The stores these settings name."""
    layout, client = Layout(settings.home), connect(settings)
    return Holdings(
        settings,
        layout,
        client,
        open_desk(settings),
        Archive(archive_folder(settings)),
        features_folder(settings),
        RedisStreamLog(client),
        RejectedLog(layout.rejected),
        open_id_map(settings),
        open_tombstones(layout),
        open_registry(settings),
    )


def places(held: Holdings, user_key: str) -> list[Place]:
    """Every place that may hold something of this person, but the consent ledger and what stands for it in Redis."""
    layout = held.layout
    rows = (
        ("experiment exposures", layout.exposures),
        ("prediction records", layout.predictions),
        ("anomaly alerts", layout.alerts),
    )
    subjects = Subjects(layout.audit)
    served = Served(layout.served, timedelta(days=held.settings.served_sample_days))
    rewritten: dict[StoredFile, StoredFile] = {}
    # The archive before the log: live workers make their memory anew from it when the log has forgotten somebody.
    return [
        Place(
            "event archive",
            "files rewritten without the person",
            lambda: count_rows(held.archive.folder, user_key),
            lambda: rewritten.update(held.archive.erase(user_key)),
        ),
        Place("live event log", "events deleted", lambda: len(held.log.of(user_key)), lambda: held.log.erase(user_key)),
        Place(
            "rejected log",
            "entries deleted and overwritten",
            lambda: len(held.rejected.of(user_key)),
            lambda: held.rejected.erase(user_key),
        ),
        Place(
            "online features and assignments",
            "keys deleted",
            lambda: len(_keys(held.client, user_key)),
            lambda: _erase_online(held.client, user_key),
        ),
        Place(
            "offline features",
            "files written anew without the person",
            lambda: count_rows(held.features, user_key),
            lambda: forget(held.features, user_key, rewritten=rewritten),
        ),
        *(_parquet(name, folder, user_key) for name, folder in rows),
        Place(
            "served samples",
            "files rewritten without the person",
            lambda: count_rows(layout.served, user_key),
            lambda: served.erase(user_key),
        ),
        Place(
            "id map",
            "entry deleted and overwritten",
            lambda: int(held.id_map.knows(user_key)),
            lambda: held.id_map.forget(user_key),
        ),
        Place(
            "audit log",
            "secret deleted, without which no entry tells that it was about them",
            lambda: int(subjects.knows(user_key)),
            lambda: subjects.forget(user_key),
        ),
        Place(
            "reports, logs and model files",
            "searched for the user key; nothing may hold it",
            lambda: _mentions((layout.reports, layout.logs, layout.mlflow), user_key),
            lambda: None,
        ),
    ]


def _parquet(name: str, folder: Path, user_key: str) -> Place:
    return Place(
        name,
        "files rewritten without the person",
        lambda: count_rows(folder, user_key),
        lambda: erase_rows(folder, user_key),
    )


def _keys(client: redis.Redis, user_key: str) -> list[Any]:
    """The person's keys, found by looking at all there are, whatever layout they were written in."""
    stays = redis_projection.consent_key(user_key).encode()
    return [k for k in client.scan_iter(match=f"*{user_key}*", count=10_000) if k != stays]


def _erase_online(client: redis.Redis, user_key: str) -> None:
    reader.erase(client, user_key)
    for key in _keys(client, user_key):
        client.delete(key)


def _mentions(folders: Iterable[Path], user_key: str) -> int:
    """Files that hold the user key in clear."""
    wanted = user_key.encode()
    files = (f for folder in folders if folder.is_dir() for f in folder.rglob("*") if f.is_file())
    return sum(_holds(file, wanted) for file in files)


def _holds(file: Path, wanted: bytes, *, block: int = 1 << 20) -> bool:
    tail = b""
    try:
        with file.open("rb") as source:
            while content := source.read(block):
                if wanted in tail + content:
                    return True
                tail = content[-len(wanted) :]
    except FileNotFoundError:  # a log that was put away meanwhile
        return False
    return False


def unlisted_file(path: str) -> bool:
    """Whether a file at `path`, relative to the home, is in no place that is listed."""
    return PurePosixPath(path).parts[0] not in FILES


def unlisted_key(key: str) -> bool:
    """Whether a Redis key is of no kind that is listed."""
    return not any(pattern.fullmatch(key) for pattern in _KEYS)
