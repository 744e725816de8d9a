"""Rate limits: a client gets its calls a minute and not one more, however many workers share the bucket."""

from __future__ import annotations

import time

import pytest
import redis

from security import rate_limit
from security.rate_limit import Allowance, RateLimit


def call(limit: RateLimit, who: str = "k") -> Allowance:
    return limit.from_lease(who) or limit.take(who)


@pytest.fixture(autouse=True)
def _no_refill(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket's own clock runs on: a minute of ten thousand years keeps tokens from coming back meanwhile."""
    monkeypatch.setattr(rate_limit, "_LEASE", rate_limit._LEASE.replace("/ 60", "/ 6e12"))


def test_exactly_the_limit_is_let_through_and_each_answer_says_what_is_left(redis_client: redis.Redis) -> None:
    limit = RateLimit(lambda: redis_client, per_minute=100)
    told = [call(limit) for _ in range(130)]
    assert [t.allowed for t in told] == [True] * 100 + [False] * 30
    assert [t.remaining for t in told[:100]] == list(range(99, -1, -1))
    assert dict(told[0].headers()) == {"ratelimit-policy": '"minute";q=100;w=60', "ratelimit": '"minute";r=99;t=1'}
    assert dict(told[-1].headers())["retry-after"] == "1"


def test_workers_share_one_bucket(redis_client: redis.Redis) -> None:
    workers = [RateLimit(lambda: redis_client, per_minute=100) for _ in range(3)]
    allowed = sum(call(workers[i % 3]).allowed for i in range(200))
    assert allowed == 100


def test_clients_do_not_use_up_each_others_calls(redis_client: redis.Redis) -> None:
    limit = RateLimit(lambda: redis_client, per_minute=10)
    assert [call(limit, "greedy").allowed for _ in range(11)] == [True] * 10 + [False]
    assert call(limit, "modest").allowed


def test_calls_come_back_with_time(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    limit = RateLimit(lambda: redis_client, per_minute=6_000)
    while call(limit).allowed:
        pass
    time.sleep(0.05)
    assert call(limit).allowed


def test_a_busy_client_costs_redis_one_call_in_many(redis_client: redis.Redis) -> None:
    limit = RateLimit(lambda: redis_client, per_minute=1_000)
    asked = [limit.from_lease("k") is None and bool(limit.take("k")) for _ in range(100)]
    assert sum(asked) < 10


def test_what_a_worker_did_not_spend_is_given_back(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (RateLimit(lambda: redis_client, per_minute=100) for _ in range(2))
    assert call(one).remaining == 99
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    assert call(one).remaining == 98
    assert call(other).allowed
