"""`aap bench swap`: champions swapped under load, and every answer made again to see which model gave it.

Two workers answer 16 connections while one of two churn models is promoted again and again, now and then a version
whose files were altered. An answer is of a half-loaded model if its record, or what its caller got, differs by one bit
from what the version it names says to the recorded values.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from aap.infra.paths import Layout
from aap.modeling.registry.registry import ModelVersion, Registry, open_registry
from aap.serving.logging.prediction_log import SCHEMA
from benchmarks.support.load_generator import Connection, Target, json_body, run_loop
from benchmarks.support.model_variants import rivals
from benchmarks.support.synthetic_shop import served, trained_shop

__all__ = ["SwapReport", "run"]

_CONNECTIONS = 16
_NEVER_LIVE_S = 30.0


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What happened to `requests` calls while champions were swapped `swaps` times."""

    swaps: int
    requests: int
    failed: int
    half_loaded: int
    slowest_live_s: float
    """From the promotion to the last call that began after it and was answered by the version before."""
    bad_versions: int
    bad_answers: int
    """Answers by a version that was altered; there must be none."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(slots=True)
class _Seen:
    """What callers got: when each call began, the version that answered, the prediction's id and probability."""

    began: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    stop: bool = False


def run(*, swaps: int = 20, requests: int = 10_000, customers: int = 300) -> SwapReport:
    """Swap at least `swaps` times while at least `requests` calls are answered; about two minutes."""
    with trained_shop(customers=customers) as settings:
        registry = open_registry(settings)
        champion = registry.champion("churn")
        assert champion is not None
        other, bad = rivals(registry, champion)
        good = (champion.version, other.version)
        more = {"AAP_RATE_LIMIT": "1000000000", "AAP_WORKERS": "2"}
        with served(settings, customers=customers, **more) as service:
            targets = [
                Target(service.port, "/v1/churn", json_body({"user_ids": [f"c{i}"]}), None, service.headers)
                for i in range(_CONNECTIONS)
            ]
            seen = _Seen()
            slowest = run_loop(
                lambda: _swap_under_load(seen, targets, registry, good, bad, swaps=swaps, requests=requests)
            )
        half = _half_loaded(registry, Layout(settings.home).predictions, seen)
        return SwapReport(
            swaps=swaps,
            requests=len(seen.began) + seen.failed,
            failed=seen.failed,
            half_loaded=half,
            slowest_live_s=round(slowest, 2),
            bad_versions=swaps // 5,
            bad_answers=seen.versions.count(bad.version),
        )


async def _swap_under_load(
    seen: _Seen,
    targets: Sequence[Target],
    registry: Registry,
    good: tuple[int, int],
    bad: ModelVersion,
    *,
    swaps: int,
    requests: int,
) -> float:
    load = [asyncio.create_task(_ask_on(seen, target)) for target in targets]
    slowest = 0.0
    for number in range(1, swaps + 1):
        if number % 5 == 0:
            await asyncio.to_thread(registry.promote, "churn", bad.version)
            await asyncio.sleep(2.5)
        slowest = max(slowest, await _promote(seen, registry, good[number % 2]))
    while len(seen.began) < requests:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    seen.stop = True
    await asyncio.gather(*load)
    return slowest


async def _promote(seen: _Seen, registry: Registry, version: int) -> float:
    """Promote, and wait until every connection has been answered by it a few times; returns when the last old one was."""
    await asyncio.to_thread(registry.promote, "churn", version)
    promoted, so_far = time.perf_counter(), len(seen.began)
    enough = 8 * _CONNECTIONS
    while time.perf_counter() - promoted < _NEVER_LIVE_S:
        await asyncio.sleep(0.05)
        latest = seen.versions[-enough:]
        if len(seen.versions) - so_far >= enough and set(latest) == {version}:
            break
    later = zip(seen.began[so_far:], seen.versions[so_far:], strict=True)
    return max((began - promoted for began, by in later if by != version and began > promoted), default=0.0)


async def _ask_on(seen: _Seen, target: Target) -> None:
    connection, request = Connection(target.port), target.request()
    while not seen.stop:
        began = time.perf_counter()
        try:
            status, body = await connection.ask(request)
        except (OSError, asyncio.IncompleteReadError):
            seen.failed += 1
            await connection.close()
            continue
        if status != 200:
            seen.failed += 1
            continue
        (answer,) = json.loads(body)["answers"]
        seen.began.append(began)
        seen.versions.append(int(answer["model"]["version"]))
        seen.scores[answer["prediction_id"]] = answer["result"]["probability"]
    await connection.close()


def _half_loaded(registry: Registry, records: Path, seen: _Seen) -> int:
    """Answers that differ by a bit from what the version they name says to their recorded values, or have no record."""
    table = ds.dataset([str(f) for f in records.rglob("day=*/*.parquet")], schema=SCHEMA, format="parquet").to_table(
        columns=["prediction_id", "model_version", "values"]
    )
    by_version: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        by_version[int(row["model_version"])].append(row)
    wrong = len(set(seen.scores) - set(table["prediction_id"].to_pylist()))
    for version, rows in by_version.items():
        model: Any = registry.load(registry.version("churn", version))
        again = model.score(np.array([row["values"] for row in rows])).tolist()
        wrong += sum(
            seen.scores.get(row["prediction_id"], score) != score for row, score in zip(rows, again, strict=True)
        )
    return wrong
