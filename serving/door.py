"""The door: what every call passes before anybody looks at what it asks.

In this order: is there room for one more call, is the key good and for this, has its client calls left, did the body
arrive in time and fit. What is turned away here costs next to nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import ClientDisconnect, Request

from security.api_keys import KeyInfo, Scope
from security.rate_limit import Allowance, RateLimit
from serving.errors import BodyTooLarge, NoKey, Overloaded, TooManyCalls, TooSlow, WrongScope
from serving.platform import Platform
from serving.requests import check_content_type, read_body

__all__ = ["Door", "over_the_limit"]

_BYTES_A_USER = 1_600  # 256 characters, each at most six bytes when JSON escapes it, and what surrounds them
_MOST_BYTES_WAITING = 64 * 2**20


class Door:
    """One worker's door. It counts the calls and bytes inside, so that a flood is refused before memory runs out."""

    def __init__(self, platform: Platform) -> None:
        self._platform, self._settings = platform, platform.settings
        self._limit = RateLimit(platform.impatient, per_minute=max(1, self._settings.rate_limit))
        self._calls = self._bytes = 0
        self._most_bytes = 4_096 + _BYTES_A_USER * self._settings.max_users_per_call

    @property
    def calls(self) -> int:
        """Calls inside now."""
        return self._calls

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Room for one call while the block runs. Raises `Overloaded`."""
        if self._calls >= self._settings.max_waiting or self._bytes >= _MOST_BYTES_WAITING:
            raise Overloaded(
                "More calls wait here than can be answered in time: ask again in a moment, or more slowly."
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def key(self, request: Request, scope: Scope | None) -> KeyInfo:
        """The caller's key. Raises `NoKey`, or `WrongScope` when it is not for `scope`."""
        headers = request.headers
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._checked(given, scope)

    def password(self, request: Request, scope: Scope) -> KeyInfo:
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
        return self._checked(given, scope)

    def _checked(self, given: str, scope: Scope | None) -> KeyInfo:
        now = self._settings.now()
        found = self._platform.keys.verify(given, now=now) if given else None
        if found is None:
            self._platform.audit.note("call", by="no valid key", outcome="refused", at=now)
            what = "The API key is unknown, revoked or expired" if given else "The call has no API key"
            raise NoKey(f"{what}: send one in the header Authorization: Bearer, made with `aap keys create`.")
        if scope is not None and not found.allows(scope):
            self._platform.audit.note(f"use scope {scope}", by=found.id, outcome="refused", at=now)
            raise WrongScope(f"The key {found.name!r} has no scope {scope.value!r}: use one that has.")
        return found

    def open_on_loopback(self, request: Request) -> None:
        """For what carries no data: open where only this machine can ask for it, else behind any key."""
        if not ipaddress.ip_address(self._settings.host).is_loopback:
            self.key(request, None)

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

    async def body(self, request: Request, kind: type[Any], *, until: float) -> Any:
        """The request in the body. Raises what is wrong with it, `TooSlow` when it hasn't arrived by `until`."""
        check_content_type(request.headers.get("content-type"))
        if int(request.headers.get("content-length") or 0) > self._most_bytes:
            raise BodyTooLarge(f"The body has more than {self._most_bytes} bytes: split the call.")
        body = bytearray()
        try:
            async with asyncio.timeout_at(until):
                async for chunk in request.stream():
                    body += chunk
                    self._bytes += len(chunk)
                    if len(body) > self._most_bytes:
                        raise BodyTooLarge(f"The body has more than {self._most_bytes} bytes: split the call.")
        except TimeoutError:
            raise TooSlow(f"The body didn't arrive within {self._settings.deadline_s:g} s: send it at once.") from None
        except ClientDisconnect:
            raise TooSlow("The client left before its body had arrived.") from None
        finally:
            self._bytes -= len(body)
        return read_body(bytes(body), kind, most_users=self._settings.max_users_per_call)


def over_the_limit(told: Allowance) -> TooManyCalls:
    """The refusal of a call that its client has none left for."""
    return TooManyCalls(
        f"This key may make {told.limit} calls a minute and has made them: ask again in {told.retry_s} s, name more "
        "people in one call, or raise AAP_RATE_LIMIT."
    )
