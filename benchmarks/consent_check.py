"""`aap bench consent`: what checking consent adds to an online read.

*With* is the whole door. *Without* is the same read of the same rows by the same functions, with everything else that the
door does (key names, declarations, time to live, statuses, sequences, the service's columns), but it looks at nobody's
consent and decides nothing. Both are asked about the same people, who have a row, in turn; who goes first changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import redis

from aap.consent import redis_projection
from aap.features.datasets import Vectors
from aap.features.declarations import Service
from aap.features.online.reader import OnlineValues, fetch, lists_of, tell_time, to_micros
from aap.features.online.row_codec import AS_OF as ROW_AS_OF, EXPIRES_AT, MADE_BY, VALID_UNTIL, parts
from aap.features.online.vectors import vectors, vectors_of
from aap.features.views import View
from benchmarks.online_read import SIZES, bring_online
from benchmarks.support.environment import describe, percentile_ms
from benchmarks.support.synthetic_users import (
    AS_OF,
    PURPOSE,
    Crowd,
    a_server_of_its_own,
    crowd,
    project,
    the_service,
    the_view,
)

__all__ = ["ConsentReport", "Line", "run"]

_NOBODY = redis_projection.decide([], [PURPOSE], now_micros=0)
_TURNS = {1: 1_500, 10: 1_200, 100: 600, 500: 300}


@dataclass(frozen=True, slots=True)
class Line:
    """Medians of one size, in milliseconds, and what consent adds."""

    with_p50_ms: float
    without_p50_ms: float
    added_percent: float
    """Negative when it is lost in the noise."""


@dataclass(frozen=True, slots=True)
class ConsentReport:
    """What was measured, by the number of people in one read."""

    machine: str
    people: int
    rows: dict[int, Line]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        rows = {str(size): asdict(line) for size, line in self.rows.items()}
        return {"machine": self.machine, "people": self.people, "rows": rows}


def run(*, people: int = 100_000, sizes: Sequence[int] = SIZES, seed: int = 7) -> ConsentReport:
    """Measure; about a quarter of a minute."""
    random, view, everybody = np.random.default_rng(seed), the_view(), crowd(people, seed=seed)
    with a_server_of_its_own() as (_, client):
        project(client, everybody)
        bring_online(client, view, everybody)
        lines = {size: _measure(client, view, everybody, size, random) for size in sizes}
        return ConsentReport(describe(client), people, lines)


def _measure(client: redis.Redis, view: View, people: Crowd, size: int, random: np.random.Generator) -> Line:
    service, present = the_service(view), np.array(people.with_values())

    def checked(keys: Sequence[str]) -> Vectors:
        return vectors(client, view, service, keys, now=AS_OF)

    def unchecked(keys: Sequence[str]) -> Vectors:
        return _unchecked(client, view, service, keys)

    told: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(_TURNS[size]):
        keys = [people.keys[i] for i in random.choice(present, size).tolist()]
        pair: list[tuple[str, Callable[[Sequence[str]], Vectors]]] = [("with", checked), ("without", unchecked)]
        for name, read in pair if turn % 2 else reversed(pair):
            started = time.perf_counter()
            read(keys)
            told[name].append(time.perf_counter() - started)
    checking, not_checking = (percentile_ms(told[name], 50) for name in ("with", "without"))
    return Line(checking, not_checking, round(100 * (checking / not_checking - 1), 1))


def _unchecked(client: redis.Redis, view: View, asked: Service, user_keys: Sequence[str]) -> Vectors:
    """What `retrieval.vectors` does, less the consent."""
    at = to_micros(AS_OF)
    moment = np.array(at)
    rows = fetch(client, redis_projection.row_keys(user_keys, view.purpose))
    consent, headers, values = parts(view, rows)
    fresh = headers[:, MADE_BY] == view.mark
    fresh &= moment < headers[:, EXPIRES_AT]
    everybody = bool(fresh.all())
    stale = fresh & (headers[:, VALID_UNTIL] <= moment)
    if stale.any() or not everybody:
        raise RuntimeError("Somebody asked about has no row that can be read as it is.")
    tell_time(view, values, now=at)
    status = np.isnan(values).view(np.uint8)
    lists, as_of = lists_of(view, rows, fresh), np.where(fresh, headers[:, ROW_AS_OF], 0)
    read = OnlineValues(values, status, _NOBODY, lists, as_of, consent[:, view.grant_word])
    return vectors_of(read, view, asked)
