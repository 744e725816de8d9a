"""`aap bench withdraw`: how long a withdrawal takes under load, and whether anything uses the data once it is acknowledged.

People withdraw one after another over HTTP while two workers answer predictions about everybody, events of everybody come
in, and live workers fold them. A use is: an answer to a call that began after the acknowledgement, a row of theirs for the
purpose that is seen in Redis after it, and a record of an allowed answer that knew the withdrawal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow.dataset as ds
import redis

from aap.config import Settings
from aap.consent import redis_projection
from aap.consent.purposes import Purpose
from aap.events.streaming.consumer_group import behind
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.security.api_keys import ApiKeys, Scope
from aap.security.pseudonyms import load_pseudonyms
from aap.serving.logging.prediction_log import SCHEMA
from benchmarks.support.environment import describe, percentile_ms
from benchmarks.support.load_generator import Connection, Target, json_body, run_loop
from benchmarks.support.synthetic_shop import Served, served, trained_shop

__all__ = ["WithdrawReport", "run"]

_PURPOSE = Purpose.MARKETING_RETENTION
_PREDICTING, _SENDING = 6, 2
_EVENTS_A_CALL = 10
_PAUSE_S = 0.05
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class WithdrawReport:
    """Times from sending a withdrawal to its acknowledgement, and every use after it, by where it was seen."""

    withdrawals: int
    uses_after_ack: int
    p50_ms: float
    p99_ms: float
    answers: int
    """Of predictions, on the way and after."""
    events: int
    answered_after: int
    rows_after: int
    recorded_after: int
    late_events_used: int
    """Of events sent after the acknowledgement that happened before it: those that made a row for the purpose."""
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(slots=True)
class _Seen:
    acknowledged: dict[str, float] = field(default_factory=dict)
    """When each person's withdrawal was acknowledged."""
    positions: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    answers: int = 0
    events: int = 0
    answered_after: int = 0
    rows_after: int = 0
    stop: bool = False


def run(*, withdrawals: int = 200, customers: int = 300) -> WithdrawReport:
    """Withdraw for so many of the customers; about two minutes."""
    with trained_shop(customers=customers) as settings:
        people = [f"c{i}" for i in range(customers)]
        leaving = random.Random(7).sample(people, withdrawals)
        more = {"AAP_RATE_LIMIT": "1000000000", "AAP_WORKERS": "2"}
        with (
            connect(settings) as client,
            served(settings, customers=customers, **more) as service,
            _live(settings, client),
        ):
            desk = ApiKeys(Layout(settings.home).api_keys).create(
                "bench-desk", scopes=[Scope.CONSENT, Scope.COLLECT], now=settings.now()
            )
            seen = _Seen()
            run_loop(lambda: _withdraw_under_load(seen, service, client, desk, people=people, leaving=leaving))
            late = _rows(client, settings, leaving)
            machine = describe(client)
        recorded = _recorded_after(settings, seen)
    return WithdrawReport(
        withdrawals=len(seen.seconds),
        uses_after_ack=seen.answered_after + seen.rows_after + recorded + late,
        p50_ms=percentile_ms(seen.seconds, 50),
        p99_ms=percentile_ms(seen.seconds, 99),
        answers=seen.answers,
        events=seen.events,
        answered_after=seen.answered_after,
        rows_after=seen.rows_after,
        recorded_after=recorded,
        late_events_used=late,
        machine=machine,
    )


@contextlib.contextmanager
def _live(settings: Settings, client: redis.Redis) -> Iterator[None]:
    environment = {
        **os.environ,
        "AAP_HOME": str(settings.home),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "aap.cli.main", "live", "--workers", "1"], env=environment, stdout=subprocess.DEVNULL
    ) as worker:
        try:
            while behind(client) is None:
                time.sleep(0.1)
            yield
        finally:
            worker.terminate()


async def _withdraw_under_load(
    seen: _Seen, service: Served, client: redis.Redis, desk: str, *, people: list[str], leaving: list[str]
) -> None:
    load = [asyncio.create_task(_predict(seen, service, people, seed=i)) for i in range(_PREDICTING)]
    load += [asyncio.create_task(_send(seen, service, desk, people, seed=i)) for i in range(_SENDING)]
    load.append(asyncio.create_task(_look(seen, service.settings, client)))
    await asyncio.sleep(2.0)
    connection = Connection(service.port)
    for person in leaving:
        body = {"user_id": person, "purpose": _PURPOSE.value, "choice": "withdraw"}
        began = time.perf_counter()
        status, said = await connection.ask(_request(service.port, "/v1/consent", body, desk))
        if status != 200:
            raise RuntimeError(f"A withdrawal was not taken: HTTP {status}, {said.decode()[:200]}")
        seen.acknowledged[person] = ended = time.perf_counter()
        seen.seconds.append(ended - began)
        seen.positions[person] = json.loads(said)["ledger_seq"]
        await _ask(seen, connection, service, person)  # the very next call
        before = service.settings.now() - timedelta(minutes=5)
        await connection.ask(_request(service.port, "/v1/events", {"events": [_event(person, before)]}, desk))
        await asyncio.sleep(_PAUSE_S)
    await asyncio.sleep(2.0)
    seen.stop = True
    await asyncio.gather(*load)
    await connection.close()
    while (left := await asyncio.to_thread(behind, client)) is None or left.events:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _predict(seen: _Seen, service: Served, people: list[str], *, seed: int) -> None:
    connection, draw = Connection(service.port), random.Random(seed)
    while not seen.stop:
        await _ask(seen, connection, service, draw.choice(people))
    await connection.close()


async def _ask(seen: _Seen, connection: Connection, service: Served, person: str) -> None:
    began = time.perf_counter()
    target = Target(service.port, "/v1/churn", json_body({"user_ids": [person]}), None, service.headers)
    status, said = await connection.ask(target.request())
    if status != 200:
        raise RuntimeError(f"A prediction failed: HTTP {status}, {said.decode()[:200]}")
    (answer,) = json.loads(said)["answers"]
    seen.answers += 1
    seen.answered_after += answer["result"] is not None and began > seen.acknowledged.get(person, began)


async def _send(seen: _Seen, service: Served, desk: str, people: list[str], *, seed: int) -> None:
    connection, draw = Connection(service.port), random.Random(100 + seed)
    while not seen.stop:
        events = [_event(draw.choice(people), service.settings.now()) for _ in range(_EVENTS_A_CALL)]
        await connection.ask(_request(service.port, "/v1/events", {"events": events}, desk))
        seen.events += len(events)
    await connection.close()


async def _look(seen: _Seen, settings: Settings, client: redis.Redis) -> None:
    """Whether Redis shows a row of anybody who had been acknowledged before it was looked at."""
    while not seen.stop:
        seen.rows_after += await asyncio.to_thread(_rows, client, settings, list(seen.acknowledged))
        await asyncio.sleep(_LOOK_EVERY_S)


def _rows(client: redis.Redis, settings: Settings, people: list[str]) -> int:
    if not people:
        return 0
    keys = load_pseudonyms(Layout(settings.home)).user_keys(people)
    found: Any = client.mget(redis_projection.row_keys(keys, _PURPOSE))
    return sum(row is not None for row in found)


def _recorded_after(settings: Settings, seen: _Seen) -> int:
    """Records of churn that were answered on a decision as new as the withdrawal, and allowed."""
    layout = Layout(settings.home)
    pseudonyms = load_pseudonyms(layout)
    since = dict(zip(pseudonyms.user_keys(list(seen.positions)), seen.positions.values(), strict=True))
    files = [str(f) for f in layout.predictions.rglob("day=*/*.parquet")]
    rows = ds.dataset(files, schema=SCHEMA, format="parquet").to_table(
        columns=["user_key", "ledger_seq", "consent_purpose"]
    )
    return sum(
        row["user_key"] in since and row["consent_purpose"] == _PURPOSE and row["ledger_seq"] >= since[row["user_key"]]
        for row in rows.to_pylist()
    )


def _event(person: str, at: Any) -> dict[str, Any]:
    return {
        "source": "bench",
        "id": f"{random.getrandbits(64):x}",
        "type": "product_purchased",
        "user_id": person,
        "occurred_at": at.isoformat(),
        "properties": {"basket_id": "b1", "item_id": "i1", "quantity": 1, "amount": "2.50"},
    }


def _request(port: int, path: str, body: Any, key: str) -> bytes:
    return Target(port, path, json_body(body), None, (f"Authorization: Bearer {key}",)).request()
