"""Lanes: calls of one kind that are answered together when several wait.

Many calls about one person each then cost little more than one call about many people: one read of Redis, one pass of
the model. A person's answer doesn't depend on who else is asked about, so nobody can tell.

What is quick is answered in the event loop: while it waits for what it reads, calls gather behind it, and are taken all
at once next. The rest is a thread's, one a lane: what is about many people, and whatever the quick way can't do or
failed at.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Lane"]

Options = TypeVar("Options", bound=Hashable)
A = TypeVar("A")

_QUICK = 32
"""People (or items) that the event loop answers about at once: more would keep it from everybody else for too long."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[Options, A]):
    options: Options
    about: list[str]
    answered: asyncio.Future[Sequence[A]]


class Lane(Generic[Options, A]):
    """Calls about people (or items), answered by `answer(about, options)` one for one and in order.

    At most `most` are asked about at once; a single call may have more. `quickly` answers the same without ever waiting
    outside of `await`; whatever it raises, `answer` is asked next.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[list[str], Options], Sequence[A]],
        *,
        quickly: Callable[[list[str], Options], Awaitable[Sequence[A]]] | None = None,
        most: int = 200,
    ) -> None:
        self._answer, self._quickly, self._most = answer, quickly, most
        self._quick: deque[_Call[Options, A]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[_Call[Options, A]] = deque()
        self._arrived = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=f"lane:{name}", daemon=True)
        self._stopped = False
        self._starting = threading.Lock()

    async def ask(self, about: list[str], options: Options) -> Sequence[A]:
        """The answers about `about`. Raises what `answer` raises."""
        call: _Call[Options, A] = _Call(options, about, asyncio.get_running_loop().create_future())
        if self._quickly is None or len(about) > _QUICK:
            self._hand_over(call)
        else:
            self._quick.append(call)
            if self._task is None:
                self._task = asyncio.create_task(self._answer_quickly(self._quickly))
        try:
            return await call.answered
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # not waiting any more: the thread has it
                self._waiting.remove(call)
            raise

    def stop(self) -> None:
        """End the thread once every call that waits for it is answered."""
        self._stopped = True
        self._arrived.release()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    async def _answer_quickly(self, quickly: Callable[[list[str], Options], Awaitable[Sequence[A]]]) -> None:
        try:
            while calls := _together(self._quick, most=_QUICK):
                try:
                    found = await quickly(_about(calls), calls[0].options)
                except Exception:
                    for call in calls:
                        self._hand_over(call)
                else:
                    _settle(_shared_out(calls, found))
        finally:
            self._task = None

    def _hand_over(self, call: _Call[Options, A]) -> None:
        """Leave a call to the thread."""
        if not self._thread.is_alive():
            self._start()
        self._waiting.append(call)
        self._arrived.release()

    def _start(self) -> None:
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def _run(self) -> None:
        # Every call that waits has been counted in `_arrived`, so what is left waiting is come back to.
        while True:
            self._arrived.acquire()
            if calls := _together(self._waiting, most=self._most):
                _deliver(self._answers(calls))
            elif self._stopped and not self._waiting:
                return

    def _answers(self, calls: list[_Call[Options, A]]) -> list[tuple[_Call[Options, A], Any]]:
        """Each call with its answers, or with what went wrong."""
        try:
            found = self._answer(_about(calls), calls[0].options)
        except Exception as error:
            if len(calls) == 1:
                return [(calls[0], error)]
            return [pair for call in calls for pair in self._answers([call])]  # one's fault is not the others'
        return _shared_out(calls, found)


def _together(waiting: deque[_Call[Options, A]], *, most: int) -> list[_Call[Options, A]]:
    """The calls at the head of the queue that can be answered together; those given up meanwhile are left out."""
    taken: list[_Call[Options, A]] = []
    people = 0
    while waiting:
        try:
            call = waiting.popleft()
        except IndexError:  # the last one was given up on just now
            break
        if taken and (call.options != taken[0].options or people + len(call.about) > most):
            waiting.appendleft(call)
            break
        if not call.answered.done():
            taken.append(call)
            people += len(call.about)
    return taken


def _about(calls: list[_Call[Options, A]]) -> list[str]:
    return [one for call in calls for one in call.about]


def _shared_out(calls: list[_Call[Options, A]], found: Sequence[A]) -> list[tuple[_Call[Options, A], Any]]:
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
