"""Wrong keys: how many calls without a good key came from an address within a minute.

A key can't be guessed; this keeps those who try, or have forgotten theirs, from costing more than a look at a dictionary.
An address may be a proxy's for everybody, so it is counted for calls without a good key alone, and a good key is never
asked about it. Addresses are held for a minute, a few thousand at most, and are written nowhere.
"""

from __future__ import annotations

import ipaddress
import math
import time

__all__ = ["WrongKeys"]

_WINDOW_S = 60.0


class WrongKeys:
    """One worker's count; `per_minute` calls of an address are told that their key is wrong, and more to come back."""

    def __init__(self, *, per_minute: int = 100, addresses: int = 4_096) -> None:
        self._most, self._addresses = per_minute, addresses
        self._seen: dict[str, tuple[float, int]] = {}
        """When an address's minute ends and its calls in it; whose minute ends first comes first."""

    def another(self, address: str) -> int | None:
        """Count a call; the seconds to stay away where this minute has had too many."""
        now, network = time.monotonic(), _network(address)
        until, calls = self._seen.get(network, (0.0, 0))
        if now >= until:
            self._seen.pop(network, None)
            if len(self._seen) >= self._addresses:
                del self._seen[next(iter(self._seen))]
            until, calls = now + _WINDOW_S, 0
        self._seen[network] = until, min(calls + 1, self._most + 1)
        return math.ceil(until - now) if calls >= self._most else None


def _network(address: str) -> str:
    """A household's or a server's IPv6 addresses are 2**64: they count as one."""
    if ":" not in address:
        return address
    try:
        return ipaddress.IPv6Address(address.partition("%")[0]).exploded[:19]
    except ValueError:
        return address
