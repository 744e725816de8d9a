"""The ramp: how large a share of people a flag takes in, growing by itself while nothing is broken.

A flag whose metadata says `"ramp": "2,10,50,100"` begins with 2 % of the people it is for. The split among those is the
flag's own from the start, so arms stay comparable while the share grows; everybody else gets the default variant, and is
taken in later. Each look (`aap live` has one every few minutes) takes one step when the last one has lasted `ramp_hours`,
enough people are in, the split is sound, and the plan has guardrails and none is broken. The step is in Redis, which the
assignment reads anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis

from aap.experiments.flags.definition import SLOTS, Flag, slot_in

__all__ = ["Step", "admits", "advance", "ramp_key", "step_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a ramp is. `share` is in percent; `since` is None before anybody watched it."""

    number: int
    share: int
    since: datetime | None


def ramp_key(flag: str) -> str:
    """Where the step of a flag's ramp is kept."""
    return f"experiment:ramp:{flag}"


def step_of(flag: Flag, blob: bytes | str | None) -> Step:
    """The step that `blob` says; the first one where it says nothing that can be read."""
    try:
        told = json.loads(blob) if blob is not None else {}
        number, since = int(told.get("step", 0)), told.get("since")
        number = min(max(number, 0), len(flag.ramp) - 1)
        return Step(number, flag.ramp[number], datetime.fromisoformat(since) if since else None)
    except (ValueError, TypeError, AttributeError):
        return Step(0, flag.ramp[0], None)


def admits(flag: Flag, blob: bytes | str | None, *, user_key: str) -> bool:
    """Whether the share taken in now holds this person: who is in a smaller share is in every larger one."""
    if not flag.ramp:
        return True
    return slot_in(f"ramp:{flag.name}", user_key=user_key) < step_of(flag, blob).share * SLOTS // 100


def advance(client: redis.Redis, flag: Flag, *, now: datetime, may_grow: bool) -> tuple[Step, Step]:
    """Take the next step if it is time and `may_grow`; returns the step before and after. Raises redis-py's errors."""
    blob: Any = client.get(ramp_key(flag.name))
    held = step_of(flag, blob)
    if held.since is None:
        begun = Step(held.number, held.share, now)
        _keep(client, flag, begun)
        return begun, begun
    last = held.number == len(flag.ramp) - 1
    if last or not may_grow or now < held.since + timedelta(hours=flag.ramp_hours):
        return held, held
    grown = Step(held.number + 1, flag.ramp[held.number + 1], now)
    _keep(client, flag, grown)
    return held, grown


def _keep(client: redis.Redis, flag: Flag, step: Step) -> None:
    client.set(ramp_key(flag.name), json.dumps({"step": step.number, "since": step.since and step.since.isoformat()}))
