"""Rate limits: a client gets its calls a minute and not one more, however many workers share the bucket."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import redis
import redis.asyncio

from aap.config import Settings
from aap.infra.redis.connection import connect, connect_async, status
from aap.security import rate_limit
from aap.security.rate_limit import Allowance, RateLimit
from tests.waiting import PATIENCE_S

T = TypeVar("T")
Make = Callable[[int], RateLimit]
_AS_IT_IS = rate_limit._LEASE


def scene(settings: Settings, play: Callable[[Make], Awaitable[T]]) -> T:
    """What comes of `play`, which makes rate limits over one client, as in one worker's event loop."""

    async def run() -> T:
        client = connect_async(settings)
        try:
            return await play(lambda per_minute: RateLimit(client, per_minute=per_minute))
        finally:
            await client.aclose()

    return asyncio.run(run())


async def call(limit: RateLimit, who: str = "k") -> Allowance:
    told = limit.from_lease(who) or await limit.take(who)
    assert told is not None, "Redis is there"
    return told


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not taken for a Redis that hangs."""
    monkeypatch.setattr(rate_limit, "_ASKED_S", PATIENCE_S)
    monkeypatch.setattr("aap.infra.redis.connection._IMPATIENT_S", PATIENCE_S)


@pytest.fixture(autouse=True)
def _no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket's own clock runs on: a minute of ten thousand years keeps tokens from coming back meanwhile."""
    monkeypatch.setattr(rate_limit, "_LEASE", rate_limit._LEASE.replace("/ 60", "/ 6e12"))


def test_exactly_the_limit_is_let_through_and_each_answer_says_what_is_left(redis_server: Settings) -> None:
    async def play(make: Make) -> list[Allowance]:
        limit = make(100)
        return [await call(limit) for _ in range(130)]

    told = scene(redis_server, play)
    assert [t.allowed for t in told] == [True] * 100 + [False] * 30
    assert [t.remaining for t in told[:100]] == list(range(99, -1, -1))
    assert dict(told[0].headers()) == {"ratelimit-policy": '"minute";q=100;w=60', "ratelimit": '"minute";r=99;t=1'}
    assert dict(told[-1].headers())["retry-after"] == "1"


def test_workers_share_one_bucket(redis_server: Settings) -> None:
    async def play(make: Make) -> int:
        workers = [make(100) for _ in range(3)]
        return sum([(await call(workers[i % 3])).allowed for i in range(200)])

    assert scene(redis_server, play) == 100


def test_calls_at_the_same_time_get_no_more_than_the_limit(redis_server: Settings) -> None:
    async def play(make: Make) -> int:
        workers = [make(100) for _ in range(3)]
        return sum(t.allowed for t in await asyncio.gather(*(call(workers[i % 3]) for i in range(300))))

    assert scene(redis_server, play) == 100


def test_clients_do_not_use_up_each_others_calls(redis_server: Settings) -> None:
    async def play(make: Make) -> tuple[list[bool], bool]:
        limit = make(10)
        return [(await call(limit, "greedy")).allowed for _ in range(11)], (await call(limit, "modest")).allowed

    assert scene(redis_server, play) == ([True] * 10 + [False], True)


def test_calls_come_back_with_time(redis_server: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    by_a_key = _AS_IT_IS.replace("redis.call('TIME')", "{redis.call('GET', 'seconds'), '0'}")
    assert by_a_key != _AS_IT_IS
    monkeypatch.setattr(rate_limit, "_LEASE", by_a_key)
    client = connect(redis_server)
    client.set("seconds", 1_000)

    async def play(make: Make) -> tuple[int, int]:
        limit = make(60)

        async def drain() -> int:
            allowed = 0
            while (await call(limit)).allowed:
                allowed += 1
            return allowed

        before = await drain()
        await asyncio.to_thread(client.set, "seconds", 1_007)
        return before, await drain()

    assert scene(redis_server, play) == (60, 7)
    client.close()


def test_a_busy_client_costs_redis_one_call_in_many(redis_server: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_LEASE_S", PATIENCE_S)  # the calls are made within a lease's time

    async def play(make: Make) -> int:
        limit = make(1_000)
        return sum([limit.from_lease("k") is None and bool(await limit.take("k")) for _ in range(100)])

    assert scene(redis_server, play) < 10


def test_what_a_worker_did_not_spend_is_given_back(redis_server: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(make: Make) -> tuple[int, int, bool]:
        one, other = make(100), make(100)
        first = (await call(one)).remaining
        now = time.monotonic()
        with monkeypatch.context() as later:
            later.setattr("aap.security.rate_limit.time.monotonic", lambda: now + 2)
            return first, (await call(one)).remaining, (await call(other)).allowed

    assert scene(redis_server, play) == (99, 98, True)


def test_a_redis_that_hangs_is_waited_for_by_one_call_a_key_and_then_not_at_all(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "_AWAY_S", PATIENCE_S)  # all is asked within the time in which nobody asks again
    client = connect(settings)
    pid = status(settings).pid
    assert pid is not None

    async def play(make: Make) -> tuple[set[Allowance | None], list[str], float]:
        limit, asked = make(1), []
        lease = limit._lease

        async def noting(who: str, back: int) -> tuple[int, bytes]:
            asked.append(who)
            return await lease(who, back)

        assert (await call(limit)).allowed
        monkeypatch.setattr(limit, "_lease", noting)
        monkeypatch.setattr(rate_limit, "_ASKED_S", 0.5)
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            told = set(await asyncio.gather(*(limit.take("k") for _ in range(50))))
            told.add(await limit.take("another"))
            return told, asked, time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGCONT)

    told, asked, waited = scene(settings, play)
    assert told == {None}
    assert asked == ["k"]
    assert waited < 20.0, "for half a second, and not for Redis"
    client.close()


def test_a_lease_whose_answer_was_lost_is_not_handed_out(
    redis_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ran the script and nobody heard of it: those tokens are lost, and never there twice."""
    monkeypatch.setattr(rate_limit, "_AWAY_S", 0.0)

    async def drain(limit: RateLimit) -> int:
        allowed = 0
        while (await call(limit)).allowed:
            allowed += 1
        return allowed

    async def play(make: Make) -> int:
        one, other = make(100), make(100)
        lease = one._lease
        assert (await call(one)).allowed, "and it has some more to spend"
        allowed = 1 + await drain(other)

        async def losing(who: str, back: int) -> tuple[int, bytes]:
            await lease(who, back)
            raise redis.exceptions.TimeoutError("the answer was lost")

        with monkeypatch.context() as lost:
            lost.setattr(one, "_lease", losing)
            one._leases["k"].until = 0.0
            assert await one.take("k") is None
        return allowed + await drain(one) + await drain(other)

    assert 95 < scene(redis_server, play) <= 100
