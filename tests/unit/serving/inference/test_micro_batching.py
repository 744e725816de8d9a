"""Lanes: calls that wait together are answered together, and nobody can tell."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from aap.serving.inference.micro_batching import Lane
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.fast


class Desk:
    """Answers slowly enough for calls to gather, and remembers what it was asked at once."""

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), []  # type: ignore[var-annotated]

    def answer(self, about: list[str], options: str) -> Sequence[str]:
        self.asked.append((tuple(about), options))
        self.open.wait(PATIENCE_S)
        if "bad" in about:
            raise ValueError("a bad one")
        return [f"{options}{one}" for one in about]


async def gathered(lane: Lane[str, str], desk: Desk, *calls: tuple[list[str], str]) -> list[object]:
    """The answers of calls of which all but the first arrive while the first is answered."""
    first, *others = calls
    tasks = [asyncio.create_task(lane.ask(*first))]
    while not desk.asked:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    tasks += [asyncio.create_task(lane.ask(about, options)) for about, options in others]
    while len(lane._waiting) < len(others):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    desk.open.set()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_calls_that_wait_are_answered_at_once_and_each_gets_its_own(desk: Desk) -> None:
    lane = Lane("test", desk.answer)
    found = asyncio.run(gathered(lane, desk, (["a"], "x"), (["b", "c"], "x"), (["d"], "x"), (["e"], "y")))
    assert found == [["xa"], ["xb", "xc"], ["xd"], ["ye"]]
    assert desk.asked == [(("a",), "x"), (("b", "c", "d"), "x"), (("e",), "y")]
    lane.stop()


def test_ones_failure_is_not_the_others(desk: Desk) -> None:
    lane = Lane("test", desk.answer)
    first, bad, good = asyncio.run(gathered(lane, desk, (["a"], "x"), (["bad"], "x"), (["c"], "x")))
    assert (first, good) == (["xa"], ["xc"])
    assert isinstance(bad, ValueError)
    lane.stop()


def test_no_more_are_asked_about_at_once_than_agreed(desk: Desk) -> None:
    lane = Lane("test", desk.answer, most=2)
    asyncio.run(gathered(lane, desk, (["a"], "x"), (["b"], "x"), (["c"], "x"), (["d", "e", "f"], "x")))
    assert [about for about, _ in desk.asked] == [("a",), ("b", "c"), ("d", "e", "f")]
    lane.stop()


def test_a_call_that_was_given_up_is_not_answered(desk: Desk) -> None:
    lane = Lane("test", desk.answer)

    async def scene() -> None:
        first = asyncio.create_task(lane.ask(["a"], "x"))
        while not desk.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        given_up = asyncio.create_task(lane.ask(["b"], "x"))
        while not lane._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        given_up.cancel()
        await asyncio.sleep(0)
        desk.open.set()
        await first
        assert await lane.ask(["c"], "x") == ["xc"]

    asyncio.run(scene())
    assert [about for about, _ in desk.asked] == [("a",), ("c",)]
    lane.stop()


def test_stopping_answers_what_waits_first(desk: Desk) -> None:
    lane = Lane("test", desk.answer)

    async def scene() -> list[object]:
        tasks = [asyncio.create_task(lane.ask(["a"], "x"))]
        while not desk.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        tasks.append(asyncio.create_task(lane.ask(["b"], "x")))
        while not lane._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        desk.open.set()
        await asyncio.to_thread(lane.stop)
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(scene()) == [["xa"], ["xb"]]


class Quick:
    """Answers in the event loop, once it is let; remembers what it was asked at once."""

    def __init__(self) -> None:
        self.open, self.asked = asyncio.Event(), []  # type: ignore[var-annotated]

    async def answer(self, about: list[str], options: str) -> Sequence[str]:
        self.asked.append(tuple(about))
        await self.open.wait()
        if "odd" in about:
            raise LookupError("not quick")
        return [f"{options}{one}" for one in about]


def test_what_comes_while_the_event_loop_reads_is_answered_together_next(desk: Desk) -> None:
    quick = Quick()
    lane = Lane("test", desk.answer, quickly=quick.answer)

    async def scene() -> list[object]:
        tasks = [asyncio.create_task(lane.ask([one], "x")) for one in "ab"]
        while not quick.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        tasks += [asyncio.create_task(lane.ask([one], "x")) for one in "cde"]
        while len(lane._quick) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        tasks[3].cancel()
        quick.open.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    a, b, c, given_up, e = asyncio.run(scene())
    assert [a, b, c, e] == [["xa"], ["xb"], ["xc"], ["xe"]]
    assert isinstance(given_up, asyncio.CancelledError)
    assert quick.asked == [("a", "b"), ("c", "e")]
    assert desk.asked == []


def test_what_the_event_loop_cant_answer_a_thread_does_and_nobody_can_tell(desk: Desk) -> None:
    quick = Quick()
    quick.open.set()
    desk.open.set()
    lane = Lane("test", desk.answer, quickly=quick.answer)

    async def scene() -> list[object]:
        many = [str(i) for i in range(40)]
        asked = (["a", "odd"], ["b"], ["odd", "bad"], many)
        return list(await asyncio.gather(*(lane.ask(about, "x") for about in asked), return_exceptions=True))

    odd, b, bad, forty = asyncio.run(scene())
    assert [odd, b, forty] == [["xa", "xodd"], ["xb"], [f"x{i}" for i in range(40)]]
    assert str(bad) == "a bad one"
    assert not any("0" in about for about in quick.asked), "forty at once would keep the event loop"
    lane.stop()


def test_a_call_that_was_given_up_on_is_not_kept_while_the_one_before_it_hangs(desk: Desk) -> None:
    async def scene() -> list[str]:
        lane = Lane("test", desk.answer)
        first = asyncio.create_task(lane.ask(["first"], "x"))
        while not desk.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await lane.ask(["given up"], "x")
        assert len(lane._waiting) == 0
        last = asyncio.create_task(lane.ask(["last"], "x"))
        while not lane._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        desk.open.set()
        found = [*await first, *await last]
        lane.stop()
        return found

    assert asyncio.run(scene()) == ["xfirst", "xlast"]
    assert [about for about, _ in desk.asked] == [("first",), ("last",)]
