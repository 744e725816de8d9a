"""Rate limits: how many calls a client may make, as a token bucket in Redis that all workers share.

A bucket holds as many tokens as calls are allowed a minute and fills at that rate. A worker takes tokens in small leases,
a twentieth of what is left at most, so that a busy client costs Redis one call in many; what it hasn't spent after a
second it gives back with the next. Nobody gets more calls than the limit, whatever the number of workers.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from storage.scripts import run

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


class RateLimit:
    """Calls a minute of each client, by the id of its key."""

    def __init__(self, client: Callable[[], redis.Redis], *, per_minute: int) -> None:
        self._client, self._limit = client, per_minute
        self._leases: dict[str, _Lease] = {}
        self._asking = threading.Lock()

    def from_lease(self, who: str) -> Allowance | None:
        """Take a call from what this worker holds, without asking anybody; None when `take` has to be asked."""
        lease = self._leases.get(who)
        if lease is None or lease.tokens < 1 or time.monotonic() >= lease.until:
            return None
        lease.tokens -= 1
        return self._told(lease, allowed=True)

    def take(self, who: str) -> Allowance:
        """Take a call from the bucket. Raises redis-py's errors when Redis is down."""
        with self._asking:
            held = self.from_lease(who)
            if held is not None:  # another call has just renewed the lease
                return held
            lease = self._leases.setdefault(who, _Lease())
            back, lease.tokens = lease.tokens, 0
            ((leased, left),) = run(self._client(), _LEASE, [([f"rate:{who}"], [self._limit, back])])
            lease.tokens, lease.left, lease.until = int(leased), float(left), time.monotonic() + _LEASE_S
            if lease.tokens < 1:
                return self._told(lease, allowed=False)
            lease.tokens -= 1
            return self._told(lease, allowed=True)

    def _told(self, lease: _Lease, *, allowed: bool) -> Allowance:
        remaining = int(lease.left) + lease.tokens
        return Allowance(
            allowed,
            self._limit,
            remaining,
            reset_s=math.ceil((self._limit - remaining) * 60 / self._limit),
            retry_s=max(1, math.ceil((1 - lease.left) * 60 / self._limit)),
        )
