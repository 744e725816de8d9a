"""The kill switch: a stopped flag gives everybody the default variant, from the very next call, in every process.

A stop is kept in Redis, which every replica reads anyway, and not in the flag file, which people keep under version
control. It holds until somebody resumes the flag; who was assigned keeps their variant for then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import redis

__all__ = ["Stop", "resume", "stop", "stop_key", "stopped"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a flag is stopped, since when, and by whom: `a person` or `a guardrail`."""

    at: datetime
    reason: str
    by: str


def stop_key(flag: str) -> str:
    """Where the stop of a flag is kept, if it is stopped."""
    return f"experiment:stopped:{flag}"


def stop(client: redis.Redis, flag: str, *, reason: str, by: str, now: datetime) -> bool:
    """Stop `flag`; returns False, and changes nothing, if it was stopped before. Raises redis-py's errors."""
    told = asdict(Stop(now, reason, by)) | {"at": now.isoformat()}
    return bool(client.set(stop_key(flag), json.dumps(told), nx=True))


def resume(client: redis.Redis, flag: str) -> bool:
    """Let `flag` go on; returns whether it was stopped. Raises redis-py's errors."""
    return bool(client.delete(stop_key(flag)))


def stopped(client: redis.Redis, flags: Iterable[str]) -> dict[str, Stop]:
    """Those of `flags` that are stopped. Raises redis-py's errors."""
    names = list(flags)
    found: Any = client.mget([stop_key(name) for name in names]) if names else []
    return {name: _read(blob) for name, blob in zip(names, found, strict=True) if blob is not None}


def _read(blob: bytes | str) -> Stop:
    told = json.loads(blob)
    return Stop(datetime.fromisoformat(told["at"]), str(told["reason"]), str(told["by"]))
