"""The back room: work that hangs keeps its own threads, and nobody past their patience."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aap.serving.inference.worker_pool import BackRoom


def test_work_that_hangs_keeps_few_threads_and_what_had_not_begun_is_dropped() -> None:
    room, go_on, begun = BackRoom("test", threads=2), threading.Event(), []

    def hang() -> None:
        begun.append(threading.current_thread().name)
        go_on.wait(10)

    async def scene() -> str:
        waited = time.monotonic()
        found = await asyncio.gather(*(given_up_on() for _ in range(20)))
        assert found == [True] * 20
        assert time.monotonic() - waited < 2.0
        go_on.set()
        return await room.run(lambda: "and works again")

    async def given_up_on() -> bool:
        try:
            async with asyncio.timeout(0.2):
                await room.run(hang)
        except TimeoutError:
            return True
        return False

    assert asyncio.run(scene()) == "and works again"
    assert len(begun) == 2
    room.close()


def test_what_work_raises_reaches_who_asked_for_it() -> None:
    room = BackRoom("test", threads=1)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(room.run(fail))
    room.close()
