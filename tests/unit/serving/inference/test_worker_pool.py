"""The back room: work that hangs keeps its own threads, and nobody past their patience."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aap.serving.inference.worker_pool import BackRoom
from tests.waiting import PATIENCE_S


def test_work_that_hangs_keeps_few_threads_and_what_had_not_begun_is_dropped() -> None:
    room, go_on, begun = BackRoom("test", threads=2), threading.Event(), []

    def hang() -> None:
        begun.append(threading.current_thread().name)
        go_on.wait(PATIENCE_S)

    async def scene() -> str:
        asked = [asyncio.create_task(room.run(hang)) for _ in range(20)]
        while len(begun) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for one in asked:
            one.cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in found] == [asyncio.CancelledError] * 20, "nobody waits for what hangs"
        go_on.set()
        return await room.run(lambda: "and works again")

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
