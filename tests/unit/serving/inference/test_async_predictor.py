"""In the event loop the same is answered as by a thread, from the same reads, and Redis is never waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from aap.config import Settings
from aap.consent.policy import Status as Choice
from aap.features.datasets import Status
from aap.features.declarations import Entity
from aap.features.online import reader
from aap.features.views import view_for
from aap.infra.redis.connection import UNREACHABLE, connect, connect_async, status, stop
from aap.serving.inference import async_predictor
from aap.serving.inference.async_predictor import AtHand, NotQuick
from tests.unit.features.conftest import filled_home, redis_url, room, running  # noqa: F401 - fixtures
from tests.unit.features.store_room import AS_OF, CUSTOMERS, RETENTION, StoreRoom
from tests.unit.serving.shop_window import Street
from tests.waiting import PATIENCE_S, until

ONE = {"user_ids": ["u-1"]}


def asked(settings: Settings, *questions: Callable[[redis.Redis], Any], kind: str = "test") -> list[Any]:
    """What comes of questions asked at the same time, errors too."""

    async def scene() -> list[Any]:
        connected = connect_async(settings)
        hand = AtHand(connected, lambda client: client)
        try:
            return await asyncio.gather(*(hand.ask(kind, q) for q in questions), return_exceptions=True)
        finally:
            await connected.aclose()

    return asyncio.run(scene())


def test_what_is_lacking_is_fetched_until_the_question_can_be_answered(redis_server: Settings) -> None:
    client = connect(redis_server)
    client.mset({"a": "b", "b": "c", "c": b"\xff"})
    looked: list[list[str]] = []

    def follow(over: redis.Redis) -> Any:
        looked.append(keys := ["a"])
        (second,) = over.mget(keys)  # type: ignore[misc]
        looked.append(keys := [second.decode(), "nothing"])
        third, nothing = over.mget(keys)  # type: ignore[misc]
        looked.append([third.decode()])
        return over.mget([third.decode()]), nothing

    assert asked(redis_server, follow) == [([b"\xff"], None)]
    assert looked == [["a"], ["a"], ["b", "nothing"], ["a"], ["b", "nothing"], ["c"], ["a"], ["b", "nothing"], ["c"]]


def test_questions_asked_at_the_same_time_each_get_what_they_read(redis_server: Settings) -> None:
    connect(redis_server).mset({f"k{i}": f"k{i + 100}" for i in range(50)} | {f"k{i + 100}": str(i) for i in range(50)})

    def follow(start: str) -> Callable[[redis.Redis], bytes]:
        return lambda over: over.mget([over.mget([start])[0].decode()])[0]  # type: ignore[index]

    assert asked(redis_server, *(follow(f"k{i}") for i in range(50))) == [str(i).encode() for i in range(50)]


def test_nothing_is_kept_from_one_question_to_the_next(redis_server: Settings) -> None:
    client = connect(redis_server)

    async def scene() -> list[bytes]:
        connected = connect_async(redis_server)
        hand = AtHand(connected, lambda over: over)
        found = []
        for word in (b"yes", b"no"):
            await asyncio.to_thread(client.set, "word", word)
            found += await hand.ask("test", lambda over: over.mget(["word"]))
        await connected.aclose()
        return found

    assert asyncio.run(scene()) == [b"yes", b"no"]


def test_what_is_told_to_be_read_later_comes_with_the_first_fetch(redis_server: Settings) -> None:
    client = connect(redis_server)
    client.mset({"a": "1", "b": "2", "c": "3"})

    def question(over: redis.Redis) -> Any:
        return [*over.mget(["a"]), *over.mget(["b"]), *over.mget(["c", "a"])]  # type: ignore[misc]

    async def fetches(**ahead: Any) -> int:
        connected = connect_async(redis_server)
        hand = AtHand(connected, lambda over: over)
        await asyncio.to_thread(client.config_resetstat)
        assert await hand.ask("test", question, **ahead) == [b"1", b"2", b"3", b"1"]
        await connected.aclose()
        return (await asyncio.to_thread(client.info, "commandstats"))["cmdstat_mget"]["calls"]

    assert asyncio.run(fetches()) == 3
    assert asyncio.run(fetches(ahead=lambda _: ["b"])) == 2
    assert asyncio.run(fetches(ahead=lambda _: ["b", "c"])) == 1


def test_what_is_read_together_was_fetched_together(redis_server: Settings) -> None:
    client = connect(redis_server)
    client.mset({"a": "old", "b": "old"})

    def question(over: redis.Redis) -> Any:
        over.mget(["a"])
        client.mset({"a": "new", "b": "new"})
        return over.mget(["a", "b"])

    assert asked(redis_server, question) == [[b"new", b"new"]]


def test_what_writes_or_reads_on_and_on_is_left_to_a_thread(redis_server: Settings) -> None:
    def wander(over: redis.Redis) -> Any:
        return [over.mget([str(i)]) for i in range(50)]

    found = asked(redis_server, lambda over: over.set("a", "b"), wander)
    assert [type(f) for f in found] == [NotQuick, NotQuick]
    assert connect(redis_server).get("a") is None


def test_what_took_long_twice_running_is_left_to_a_thread_and_other_kinds_are_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(async_predictor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(async_predictor, "_LONG_S", 0.1)

    def takes(seconds: float) -> Callable[[redis.Redis], None]:
        def question(_: redis.Redis) -> None:
            now[0] += seconds

        return question

    async def scene() -> list[Any]:
        hand = AtHand(connect_async(settings), lambda client: client)
        took = [("slow", 0.15), ("chance", 0.15), ("chance", 0.0), ("slow", 0.15), ("chance", 0.15)]
        for kind, seconds in took:
            await hand.ask(kind, takes(seconds))
        kinds = ("slow", "chance", "quick")
        return await asyncio.gather(*(hand.ask(k, lambda _: "answered") for k in kinds), return_exceptions=True)

    slow, *others = asyncio.run(scene())
    assert isinstance(slow, NotQuick)
    assert others == ["answered", "answered"]


def test_a_redis_that_hangs_is_given_up_soon_and_one_that_was_restarted_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.infra.redis.connection._IMPATIENT_S", 0.25)
    client = connect(settings)
    client.set("a", "b")
    pid = status(settings).pid
    assert pid is not None

    async def scene() -> None:
        connected = connect_async(settings)
        hand = AtHand(connected, lambda over: over)

        async def ask() -> Any:
            return await hand.ask("test", lambda over: over.mget(["a"]))

        async def answered() -> Any:
            """What it says once it isn't too busy to say it soon."""
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    return await ask()
                except UNREACHABLE:
                    if time.monotonic() > deadline:
                        raise

        assert await answered() == [b"b"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(UNREACHABLE):
            await ask()
        assert time.monotonic() - began < 20.0, "who has patience would wait for thirty seconds"
        os.kill(pid, signal.SIGCONT)
        assert await answered() == [b"b"], "on a connection of its own"
        await asyncio.to_thread(stop, settings)
        with pytest.raises(UNREACHABLE):
            await ask()
        await asyncio.to_thread(connect, settings)
        assert await answered() == [b"b"]
        await connected.aclose()

    asyncio.run(scene())


def test_everybody_is_read_as_a_thread_reads_them(room: StoreRoom) -> None:  # noqa: F811 - the fixture
    """Rows as written and rows that changed by themselves since, people without a row, who refused, who withdrew."""
    room.put_online(RETENTION)
    room.say("newcomer", RETENTION, Choice.GIVEN, at=AS_OF)
    room.say("customer-1", RETENTION, Choice.WITHDRAWN, at=AS_OF + timedelta(minutes=1))
    view, keys = view_for(Entity.USER, RETENTION), room.keys(*CUSTOMERS, "newcomer", "refuser", "stranger")
    old, seen = timedelta(microseconds=view.time_to_live_us), set()
    for step in (timedelta(minutes=2), timedelta(days=1), timedelta(days=9), timedelta(days=34), old):

        def read(client: redis.Redis, step: timedelta = step) -> reader.OnlineValues:
            return reader.read(client, view, keys, purposes=[RETENTION], now=AS_OF + step)

        patient, quick = read(connect(room.settings)), asked(room.settings, read)[0]
        np.testing.assert_array_equal(quick.values, patient.values)
        np.testing.assert_array_equal(quick.status, patient.status)
        np.testing.assert_array_equal(quick.as_of, patient.as_of)
        assert quick.decisions == patient.decisions
        seen |= set(np.unique(quick.status).tolist())
    assert seen == {int(s) for s in Status}


@pytest.fixture
def hanging(own_redis: None, street: Street, serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    """The service, its Redis being stopped in the middle of a step."""
    with serve(deadline_s=1.5) as client:
        until(lambda: client.post("/v1/churn", json=ONE).status_code == 200)  # a busy machine may miss a deadline
        pid = status(street.settings).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield client
        finally:
            os.kill(pid, signal.SIGCONT)


def test_while_redis_hangs_the_service_goes_on_saying_so(hanging: httpx.Client) -> None:
    refused = hanging.post("/v1/churn", json=ONE)
    assert refused.status_code == 503
    began = time.monotonic()
    assert hanging.get("/livez").status_code == 200
    assert time.monotonic() - began < 20.0, (
        "nothing waits in the event loop: for Redis that is for thirty seconds or more"
    )


@pytest.mark.parametrize(
    ("endpoint", "body", "by"),
    [
        ("churn", ONE, "the event loop"),
        ("segments", ONE, "the event loop"),
        ("anomalies", ONE, "the event loop"),
        ("churn", {"user_ids": [f"u-{i}" for i in range(32)]}, "the event loop"),
        ("churn", {"user_ids": [f"u-{i}" for i in range(33)]}, "a thread"),
        ("churn", {**ONE, "explain": True}, "a thread"),
        ("recommendations", ONE, "a thread"),
    ],
)
def test_what_is_quick_is_answered_in_the_event_loop(
    client: httpx.Client, street: Street, endpoint: str, body: dict[str, Any], by: str
) -> None:
    assert (
        client.post("/v1/churn", json={**ONE, "explain": True}).status_code == 200
    )  # the stores are open from here on
    answer, readers = street.shelves.online_vectors, []

    def noting(*args: Any, **options: Any) -> Any:
        lane = threading.current_thread().name.startswith("lane:")
        readers.append("a thread" if lane else "the event loop")
        return answer(*args, **options)

    street.shelves.online_vectors = noting  # type: ignore[method-assign]
    assert client.post(f"/v1/{endpoint}", json=body).status_code == 200
    assert set(readers) == {by}
