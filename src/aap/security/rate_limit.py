"""Rate limits: how many calls a client may make, as a token bucket in Redis that all workers share.

A bucket holds as many tokens as calls are allowed a minute and fills at that rate. A worker takes tokens in small leases,
a twentieth of what is left at most, so that a busy client costs Redis one call in many; what it hasn't spent after a
second it gives back with the next. Nobody gets more calls than the limit, whatever the number of workers.

All of it runs in one event loop, and Redis is asked by an impatient client: where it hangs, a call waits for a moment and
not for Redis. A lease whose answer was lost is nobody's, so that no token is handed out twice.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import cast

import redis.asyncio

from aap.infra.redis.connection import UNREACHABLE

__all__ = ["Allowance", "RateLimit"]

# Time is the server's, so that workers on machines with different clocks agree.
# KEYS: the bucket. ARGV: calls a minute, tokens given back. Returns tokens leased, and tokens left as text.
_LEASE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local limit = tonumber(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(held[1]) or limit
tokens = tokens + tonumber(ARGV[2]) + math.max(0, now - (tonumber(held[2]) or now)) * limit / 60
tokens = math.min(limit, tokens)
local lease = math.min(math.floor(tokens), math.max(1, math.floor(tokens / 20)))
tokens = tokens - lease
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 120)
return {lease, string.format('%.6f', tokens)}
"""
_LEASE_S = 1.0
_ASKED_S = 0.5
_AWAY_S = 2.0
_AWAY: tuple[type[Exception], ...] = (*UNREACHABLE, TimeoutError)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one call was told: whether it may go on, and what is left of the `limit` calls a minute."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    """Seconds until all calls of the minute are there again."""
    retry_s: int
    """Seconds until there is one."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The fields of draft-ietf-httpapi-ratelimit-headers, and `Retry-After` for a call that may not go on."""
        told = (
            ("ratelimit-policy", f'"minute";q={self.limit};w=60'),
            ("ratelimit", f'"minute";r={self.remaining};t={self.reset_s}'),
        )
        return told if self.allowed else (*told, ("retry-after", str(self.retry_s)))


@dataclass(slots=True)
class _Lease:
    tokens: int = 0
    left: float = 0.0
    """Tokens in Redis when the lease was made."""
    until: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimit:
    """Calls a minute of each client, by the id of its key.

    While Redis is away there is no limit: it is asked again every two seconds, by one call a key.
    """

    def __init__(self, client: redis.asyncio.Redis, *, per_minute: int) -> None:
        self._client, self._limit = client, per_minute
        self._leases: dict[str, _Lease] = {}
        self._away_until = 0.0

    def from_lease(self, who: str) -> Allowance | None:
        """Take a call from what this worker holds, without asking anybody; None when `take` has to be asked."""
        lease = self._leases.get(who)
        if lease is None or lease.tokens < 1 or time.monotonic() >= lease.until:
            return None
        lease.tokens -= 1
        return self._told(lease, allowed=True)

    async def take(self, who: str) -> Allowance | None:
        """Take a call from the bucket; None while Redis is away, which is found out within half a second."""
        lease = self._leases.setdefault(who, _Lease())
        async with lease.asking:
            held = self.from_lease(who)
            if held is not None:  # another call has just renewed the lease
                return held
            if time.monotonic() < self._away_until:  # or has just waited in vain
                return None
            back, lease.tokens = lease.tokens, 0
            try:
                async with asyncio.timeout(_ASKED_S):
                    leased, left = await self._lease(who, back)
            except _AWAY:
                self._away_until = time.monotonic() + _AWAY_S
                return None
            lease.tokens, lease.left, lease.until = int(leased), float(left), time.monotonic() + _LEASE_S
            if lease.tokens < 1:
                return self._told(lease, allowed=False)
            lease.tokens -= 1
            return self._told(lease, allowed=True)

    async def _lease(self, who: str, back: int) -> tuple[int, bytes]:
        asked = self._client.eval(_LEASE, 1, f"rate:{who}", str(self._limit), str(back))
        leased, left = await cast(Awaitable[tuple[int, bytes]], asked)
        return leased, left

    def _told(self, lease: _Lease, *, allowed: bool) -> Allowance:
        remaining = int(lease.left) + lease.tokens
        return Allowance(
            allowed,
            self._limit,
            remaining,
            reset_s=math.ceil((self._limit - remaining) * 60 / self._limit),
            retry_s=max(1, math.ceil((1 - lease.left) * 60 / self._limit)),
        )
