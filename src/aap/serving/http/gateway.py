"""The door: what every call passes before anybody looks at what it asks.

In this order: is there room for one more call, is the key good and for this, has its client calls left, is there room for
the body, did it arrive in time and fit. What is turned away here costs next to nothing.

Memory: a call holds the bytes of its body, as announced or else as they arrive, from before they are read until its reply
is made, and all calls of a worker hold 32 MB at most: 20 of the largest bodies of 1.6 MB (1,000 people), or 256 of 128 KB.
Ids take no more decoded than as JSON; the most that JSON can grow to is 24 times its size, events made of nothing but
empty lists and objects, which takes a key of scope `collect`. So a worker's bodies take 64 MB (as sent, and decoded), and
0.8 GB if somebody with such a key does their worst. Where one body may have more than 32 MB, one at a time is let in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from types import TracebackType
from typing import Any

from starlette.requests import ClientDisconnect, Request

from aap.security.api_keys import KeyInfo, Scope
from aap.security.auth_throttle import WrongKeys
from aap.security.rate_limit import Allowance, RateLimit
from aap.serving.context import Platform
from aap.serving.errors import (
    BodyTooLarge,
    NoKey,
    Overloaded,
    Refused,
    TooManyCalls,
    TooManyWrongKeys,
    TooSlow,
    WrongScope,
)
from aap.serving.http.request_body import check_content_type, read_body

__all__ = ["Door", "Place", "over_the_limit"]

_BYTES_A_USER = 1_600  # 256 characters, each at most six bytes when JSON escapes it, and what surrounds them
_MOST_BYTES_INSIDE = 32 * 2**20


class Place:
    """One call's place inside: itself, and the bytes of its body. Entering raises `Overloaded` where there is none."""

    __slots__ = ("_door", "held")

    def __init__(self, door: Door) -> None:
        self._door = door
        self.held = 0
        """Bytes."""

    def __enter__(self) -> Place:
        self._door.calls += 1
        if self._door.calls > self._door.most_calls:
            self._door.calls -= 1
            raise Overloaded(
                "More calls wait here than can be answered in time: ask again in a moment, or more slowly."
            )
        return self

    def hold(self, size: int) -> None:
        """Hold `size` bytes in all, or what is held already where that is more. Raises `Overloaded`."""
        more = size - self.held
        if more <= 0:
            return
        if self._door.bytes + more > self._door.most_bytes:
            raise Overloaded("The bodies of the calls that wait here fill their room: ask again in a moment.")
        self._door.bytes += more
        self.held = size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._door.calls -= 1
        self._door.bytes -= self.held


class Door:
    """One worker's door. It counts the calls and bytes inside, so that a flood is refused before memory runs out."""

    def __init__(self, platform: Platform) -> None:
        self._platform, self._settings = platform, platform.settings
        self._limit = RateLimit(platform.impatient, per_minute=max(1, self._settings.rate_limit))
        self._wrong = WrongKeys()
        self.calls = self.bytes = 0
        """Inside now: calls, and the bytes of their bodies."""
        self._most_bytes = 4_096 + _BYTES_A_USER * self._settings.max_users_per_call
        self.most_calls, self.most_bytes = self._settings.max_waiting, max(_MOST_BYTES_INSIDE, self._most_bytes)

    def inside(self) -> Place:
        """Room for one call, taken while the block runs that this is the context of."""
        return Place(self)

    def key(self, request: Request, scope: Scope | None) -> KeyInfo:
        """The caller's key. Raises `NoKey`, or `WrongScope` when it is not for `scope`."""
        headers = request.headers
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._checked(request, given, scope)

    def password(self, request: Request, scope: Scope | None) -> KeyInfo:
        """The key given as the password of a browser's sign-in, or as `key` takes it. Raises what `key` does.

        Only for pages that change nothing: a browser sends it along by itself.
        """
        kind, _, said = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return self.key(request, scope)
        try:
            _, _, given = base64.b64decode(said.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            given = ""
        return self._checked(request, given, scope)

    def _checked(self, request: Request, given: str, scope: Scope | None) -> KeyInfo:
        now = self._settings.now()
        found = self._platform.keys.verify(given, now=now) if given else None
        if found is None:
            self._count_wrong(request)
            self._platform.audit.note("call", by="no valid key", outcome="refused", at=now)
            what = "The API key is unknown, revoked or expired" if given else "The call has no API key"
            raise NoKey(f"{what}: send one in the header Authorization: Bearer, made with `aap keys create`.")
        if scope is not None and not found.allows(scope):
            self._platform.audit.note(f"use scope {scope}", by=found.id, outcome="refused", at=now)
            raise WrongScope(f"The key {found.name!r} has no scope {scope.value!r}: use one that has.")
        return found

    def _count_wrong(self, request: Request) -> None:
        retry_s = self._wrong.another(request.client.host if request.client else "")
        if retry_s is not None:
            raise TooManyWrongKeys(
                f"Too many calls without a good key came from your address: ask again in {retry_s} s, with a key.",
                retry_s=retry_s,
            )

    def knows(self, request: Request) -> bool:
        """Whether the caller may be told how the service is: from this machine alone, or with a good key of any scope."""
        if ipaddress.ip_address(self._settings.host).is_loopback:
            return True
        if not {"authorization", "x-api-key"} & set(request.headers.keys()):
            return False  # a probe, which isn't a guess
        try:
            self.key(request, None)
        except Refused:
            return False
        return True

    async def allowance(self, key: KeyInfo) -> Allowance | None:
        """Take one of the client's calls; None where there is no limit. An `Allowance` may say no.

        While Redis is down there is no limit: predictions are refused by themselves then, and a withdrawal must be heard.
        """
        if self._settings.rate_limit == 0:
            return None
        told = self._limit.from_lease(key.id)
        if told is None:
            told = await self._limit.take(key.id)
        if told is not None and not told.allowed:
            self._platform.audit.note("call", by=key.id, outcome="over the limit", at=self._settings.now())
        return told

    async def body(self, request: Request, kind: type[Any], place: Place, *, until: float) -> Any:
        """The request in the body, whose bytes `place` holds.

        Raises what is wrong with it, `TooSlow` when it hasn't arrived by `until`, `Overloaded` where there is no room.
        """
        check_content_type(request.headers.get("content-type"))
        announced = int(request.headers.get("content-length") or 0)
        if announced > self._most_bytes:
            raise BodyTooLarge(f"The body has more than {self._most_bytes} bytes: split the call.")
        place.hold(announced)
        body = bytearray()
        try:
            async with asyncio.timeout_at(until):
                async for chunk in request.stream():
                    body += chunk
                    place.hold(len(body))
                    if len(body) > self._most_bytes:
                        raise BodyTooLarge(f"The body has more than {self._most_bytes} bytes: split the call.")
        except TimeoutError:
            raise TooSlow(f"The body didn't arrive within {self._settings.deadline_s:g} s: send it at once.") from None
        except ClientDisconnect:
            raise TooSlow("The client left before its body had arrived.") from None
        return read_body(body, kind, most_users=self._settings.max_users_per_call)


def over_the_limit(told: Allowance) -> TooManyCalls:
    """The refusal of a call that its client has none left for."""
    return TooManyCalls(
        f"This key may make {told.limit} calls a minute and has made them: ask again in {told.retry_s} s, name more "
        "people in one call, or raise AAP_RATE_LIMIT."
    )
