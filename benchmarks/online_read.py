"""`aap bench online`: fifty values of many people, read three ways in turn from the same server in the same process.

*Ours* is the whole door: key names, one `MGET` of consent and rows, decisions, grants, time to live, statuses, and the
service's columns. *Feast* is its own Redis store with five views of ten features and `.to_dict()`. *Bare* is the limit:
one `MGET` of the same packed rows through the same client, and numpy; it obeys nothing, and is only asked about people
who have a row.

The contenders take turns within each round, each with people drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import redis

from aap.features.online import reader
from aap.features.online.row_codec import NEVER, pack_rows, stored_size
from aap.features.online.vectors import vectors
from aap.features.views import View
from benchmarks.support.environment import describe, percentile_ms
from benchmarks.support.feast_redis import FeastPeer
from benchmarks.support.synthetic_users import AS_OF, Crowd, a_server_of_its_own, crowd, project, the_service, the_view

__all__ = ["SIZES", "Line", "OnlineReport", "run"]

SIZES = (1, 10, 100, 500)
"""People in one read."""
_ROUNDS = {1: 150, 10: 100, 100: 30, 500: 12}
_TURNS = {1: 4, 10: 4, 100: 10, 500: 20}
"""How often ours and bare go in each round; Feast, being slow, goes once."""


@dataclass(frozen=True, slots=True)
class Line:
    """Timings of one size, in milliseconds, and ratios of medians."""

    ours_p50_ms: float
    ours_p99_ms: float
    feast_p50_ms: float
    feast_p99_ms: float
    bare_p50_ms: float
    bare_p99_ms: float
    vs_feast: float
    """How many times as fast as Feast."""
    vs_bare: float
    """How many times the bare limit's time."""


@dataclass(frozen=True, slots=True)
class OnlineReport:
    """What was measured, by the number of people in one read."""

    machine: str
    people: int
    rows: dict[int, Line]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        rows = {str(size): asdict(line) for size, line in self.rows.items()}
        return {"machine": self.machine, "people": self.people, "rows": rows}


def run(*, people: int = 100_000, sizes: Sequence[int] = SIZES, seed: int = 7) -> OnlineReport:
    """Measure; takes about a minute, most of it Feast's."""
    random, view, everybody = np.random.default_rng(seed), the_view(), crowd(people, seed=seed)
    batches = {
        size: [random.choice(people, min(size, people), replace=False).tolist() for _ in range(_ROUNDS[size])]
        for size in sizes
    }
    with a_server_of_its_own() as (settings, client):
        project(client, everybody)
        bring_online(client, view, everybody)
        peer = FeastPeer(settings, folder=settings.home / "peer")
        peer.fill(everybody, sorted({i for size in sizes for batch in batches[size] for i in batch}))
        lines = {size: _measure(client, view, everybody, peer, batches[size], random) for size in sizes}
        return OnlineReport(describe(client), people, lines)


def bring_online(client: redis.Redis, view: View, people: Crowd, *, as_of: datetime = AS_OF) -> None:
    """Write the rows of all who have one, as of `as_of`."""
    at = reader.to_micros(as_of)
    places = people.with_values()
    starts = [reader.to_micros(people.standing[people.keys[i]][view.purpose][0][0].start) for i in places]
    until = np.full(len(places), NEVER)
    rows = pack_rows(view, people.values[places], as_of=at, valid_until=until, grant_start=np.array(starts))
    reader.write(
        client,
        view,
        (
            reader.OnlineRow(people.keys[i], row, b"", at, start)
            for i, row, start in zip(places, rows, starts, strict=True)
        ),
    )


def _measure(
    client: redis.Redis,
    view: View,
    people: Crowd,
    peer: FeastPeer,
    batches: Sequence[Sequence[int]],
    random: np.random.Generator,
) -> Line:
    service = the_service(view)
    tail, width = f"}}:f:{view.purpose}", stored_size(view) // 8
    present = np.array(people.with_values())

    def ours(keys: Sequence[str]) -> object:
        return vectors(client, view, service, keys, now=AS_OF)

    def bare(keys: Sequence[str]) -> object:
        blobs: list[bytes] = client.mget(["{u:" + key + tail for key in keys])  # type: ignore[assignment]
        return np.frombuffer(b"".join(blobs)).reshape(-1, width)[:, -len(view.numbers) :]

    size = len(batches[0])
    told: dict[str, list[float]] = {"ours": [], "feast": [], "bare": []}
    for batch in batches:
        _time(told["feast"], peer.read, [people.keys[i] for i in batch])
        for turn in range(_TURNS[size]):
            anyone = [people.keys[i] for i in random.integers(len(people.keys), size=size).tolist()]
            somebody = [people.keys[i] for i in random.choice(present, size).tolist()]
            pair = [("ours", ours, anyone), ("bare", bare, somebody)]
            for name, read, asked in pair if turn % 2 else reversed(pair):
                _time(told[name], read, asked)
    p50 = {name: percentile_ms(timings, 50) for name, timings in told.items()}
    p99 = {name: percentile_ms(timings, 99) for name, timings in told.items()}
    return Line(
        ours_p50_ms=p50["ours"],
        ours_p99_ms=p99["ours"],
        feast_p50_ms=p50["feast"],
        feast_p99_ms=p99["feast"],
        bare_p50_ms=p50["bare"],
        bare_p99_ms=p99["bare"],
        vs_feast=round(p50["feast"] / p50["ours"], 2),
        vs_bare=round(p50["ours"] / p50["bare"], 2),
    )


def _time(timings: list[float], read: Callable[[Sequence[str]], object], keys: Sequence[str]) -> None:
    started = time.perf_counter()
    read(keys)
    timings.append(time.perf_counter() - started)
