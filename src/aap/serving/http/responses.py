"""Replies: JSON out, with the headers that keep a browser from doing anything with it but read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["Reply", "json_reply"]

_SAFE: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_CLOSED_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")
_encode = msgspec.json.Encoder().encode


class Reply:
    """One HTTP response: an ASGI application of its own."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: bytes, *, status: int = 200, kind: str = "application/json", policy: str | None = None
    ) -> None:
        self.body, self.status = body, status
        self.headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            *_SAFE,
            _CLOSED_POLICY if policy is None else (b"content-security-policy", policy.encode()),
        ]

    def add(self, headers: Iterable[tuple[str, str]]) -> None:
        """More headers."""
        self.headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Send it."""
        headers = [*self.headers, _TLS_ONLY] if scope.get("scheme") == "https" else self.headers
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(body: Any, *, status: int = 200) -> Reply:
    """`body` as JSON."""
    return Reply(_encode(body), status=status)
