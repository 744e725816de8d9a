"""Sinks: every place the platform writes to, files and Redis keys, and what it may hold of people.

A test watches the file system and Redis while everything runs, and fails when something appears that isn't here. Whoever
adds a place adds it here, and to `privacy.holdings` if it may hold something of a person.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["FILES", "KEYS", "unlisted_file", "unlisted_key"]

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


def unlisted_file(path: str) -> bool:
    """Whether a file at `path`, relative to the home, is in no place that is listed."""
    return PurePosixPath(path).parts[0] not in FILES


def unlisted_key(key: str) -> bool:
    """Whether a Redis key is of no kind that is listed."""
    return not any(pattern.fullmatch(key) for pattern in _KEYS)
