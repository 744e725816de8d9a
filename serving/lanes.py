"""Lanes: calls of one kind that wait for the same thread, and are answered together when several wait.

One thread a lane: while it answers, calls gather behind it, and it takes them all at once next. Many calls about one
person each then cost little more than one call about many people: one read of Redis, one pass of the model. A person's
answer doesn't depend on who else is asked about, so nobody can tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Lane"]

Options = TypeVar("Options", bound=Hashable)
A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[Options, A]):
    options: Options
    about: list[str]
    answered: asyncio.Future[Sequence[A]]


class Lane(Generic[Options, A]):
    """Calls about people (or items), answered by `answer(about, options)` one for one and in order.

    At most `most` are asked about at once; a single call may have more.
    """

    def __init__(self, name: str, answer: Callable[[list[str], Options], Sequence[A]], *, most: int = 200) -> None:
        self._answer, self._most = answer, most
        self._waiting: deque[_Call[Options, A]] = deque()
        self._arrived = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=f"lane:{name}", daemon=True)
        self._stopped = False
        self._starting = threading.Lock()

    async def ask(self, about: list[str], options: Options) -> Sequence[A]:
        """The answers about `about`. Raises what `answer` raises."""
        if not self._thread.is_alive():
            self._start()
        answered: asyncio.Future[Sequence[A]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(options, about, answered))
        self._arrived.release()
        return await answered

    def stop(self) -> None:
        """End the thread once every call that waits is answered."""
        self._stopped = True
        self._arrived.release()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _start(self) -> None:
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._arrived.acquire()
            if calls := self._next():
                _deliver(self._together(calls))
            elif self._stopped and not self._waiting:
                return

    def _next(self) -> list[_Call[Options, A]]:
        """The calls at the head of the queue that can be answered together; those given up meanwhile are left out.

        Every call that waits has been counted in `_arrived`, so what stays in the queue is come back to.
        """
        taken: list[_Call[Options, A]] = []
        people = 0
        while self._waiting:
            call = self._waiting[0]
            if taken and (call.options != taken[0].options or people + len(call.about) > self._most):
                break
            self._waiting.popleft()
            if not call.answered.done():
                taken.append(call)
                people += len(call.about)
        return taken

    def _together(self, calls: list[_Call[Options, A]]) -> list[tuple[_Call[Options, A], Any]]:
        """Each call with its answers, or with what went wrong."""
        try:
            found = self._answer([one for call in calls for one in call.about], calls[0].options)
        except Exception as error:
            if len(calls) == 1:
                return [(calls[0], error)]
            return [pair for call in calls for pair in self._together([call])]  # one's fault is not the others'
        ended, results = 0, []
        for call in calls:
            begun, ended = ended, ended + len(call.about)
            results.append((call, found[begun:ended]))
        return results


def _deliver(results: list[tuple[_Call[Any, Any], Any]]) -> None:
    """Hand the answers to the event loops that wait, with one wake-up each."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[_Call[Any, Any], Any]]] = {}
    for call, result in results:
        loops.setdefault(call.answered.get_loop(), []).append((call, result))
    for loop, ours in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_settle, ours)


def _settle(results: list[tuple[_Call[Any, Any], Any]]) -> None:
    for call, result in results:
        if call.answered.done():
            continue
        if isinstance(result, Exception):
            call.answered.set_exception(result)
        else:
            call.answered.set_result(result)
