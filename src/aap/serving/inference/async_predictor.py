"""At hand: answers worked out in the event loop, over values of Redis that were fetched without a thread waiting.

Handing a call to a thread and its answer back costs as much as a third of answering one person. But what answers waits
for Redis in the middle, which nothing may do in the event loop. So it is asked with a stand-in for Redis that has
nothing at first: it says what it would read, that is fetched, and it is asked again. What is read is the same, and what
is read together was fetched together. What is known to be read later can be fetched with the first, which saves the way
there and back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import redis
import redis.asyncio

__all__ = ["AtHand", "NotQuick"]

P = TypeVar("P")
T = TypeVar("T")
_Fetched = Mapping[str, bytes | None]
_LOOKS = 4
"""Rows, the consent of people without one, timetables of values that changed by themselves, assignments."""
_LONG_S, _AVOIDED_S = 0.1, 60.0
"""What kept the event loop for so long twice running is left to threads for a while; once may be a start, or chance."""


class NotQuick(Exception):
    """This can't be answered without waiting: let a thread do it."""


class _Lacking(Exception):
    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys


class _Stand:
    """Stands where a client of Redis does, with what was fetched. It can't write, nor read otherwise than by `mget`."""

    def __init__(self) -> None:
        self.fetched: Sequence[_Fetched] = ()

    def mget(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values of these keys as they were last fetched together; raises `_Lacking` unless they were."""
        for together in reversed(self.fetched):
            if all(key in together for key in keys):
                return [together[key] for key in keys]
        raise _Lacking(keys)

    def __getattr__(self, name: str) -> Any:
        raise NotQuick(name)


class AtHand(Generic[P]):
    """`make` makes what answers over a client of Redis; it is made once, over the stand-in, and serves one event loop."""

    def __init__(self, client: redis.asyncio.Redis, make: Callable[[redis.Redis], P]) -> None:
        self._client, self._stand = client, _Stand()
        self._answers = make(cast(redis.Redis, self._stand))
        self._long: set[str] = set()
        """Kinds of which the last question took long."""
        self._avoided: dict[str, float] = {}
        """Until when questions of a kind are not answered here, by the clock of `time.monotonic`."""

    async def ask(
        self, kind: str, question: Callable[[P], T], *, ahead: Callable[[P], Sequence[str]] = lambda _: ()
    ) -> T:
        """What `question` finds out; it may be asked several times, and waits for nothing but Redis.

        `ahead` tells the keys that it will probably read later on. Raises what `question` raises, redis-py's errors, and
        `NotQuick` for what writes, reads often, or is of a `kind` that took long.
        """
        if time.monotonic() < self._avoided.get(kind, 0.0):
            raise NotQuick(f"{kind} took long")
        fetched: list[_Fetched] = []
        for _ in range(_LOOKS):
            self._stand.fetched = fetched  # nobody else's turn comes before the question is answered
            began = time.monotonic()
            try:
                return question(self._answers)
            except _Lacking as lacking:
                keys = [*lacking.keys, *(() if fetched else ahead(self._answers))]
            finally:
                self._note(kind, took_s=time.monotonic() - began)
            fetched.append(dict(zip(keys, await self._client.mget(keys), strict=True)))
        raise NotQuick("more reads than were foreseen")

    def _note(self, kind: str, *, took_s: float) -> None:
        if took_s <= _LONG_S:
            self._long.discard(kind)
        elif kind in self._long:
            self._avoided[kind] = time.monotonic() + _AVOIDED_S
        else:
            self._long.add(kind)
