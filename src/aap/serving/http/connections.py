"""Connections: what a worker puts up with from a client's socket before a call has begun and after it was answered.

uvicorn waits for ever for the end of a call's head, takes a head of any length, and keeps an answer for as long as its
client doesn't read it. So here a head has ten seconds and 64 KB; an answer is read within 30 seconds; answers that wait to
be read have 64 MB, beyond which whoever has been reading longest is cut off; and where there are more connections than half
of the files this process may open, the one that has been owing a call for longest makes way for a new one.

Nothing here costs a call more than a microsecond: each connection is looked at once in two seconds.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["Connection"]

_HEAD_S = 10.0
_HEAD_BYTES = 65_536
_READ_S = 30.0
_MOST_UNREAD = 64 * 2**20
_LOOK_S = 2.0
_MOST = min(2_048, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One client's connection, as uvicorn serves it, with an end to its patience."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head = 0
        """Bytes of a call's head so far; -1 while none is arriving."""
        self._owing: tuple[float, RequestResponseCycle | None] | None = None
        """Since when something has been due to be sent, and which call came before."""
        self._unread_since: float | None = None
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client in, in place of another where there are too many."""
        super().connection_made(transport)
        self._owing = self.loop.time(), None
        self._looking = self.loop.call_later(_LOOK_S, self._look)
        if len(self.connections) > _MOST:
            self._make_way()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if self._looking is not None:
            self._looking.cancel()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        """A head has arrived."""
        self._head = -1
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Something was sent."""
        super().data_received(data)
        if self._head >= 0:
            self._head += len(data)
            if self._head > _HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LONG)
                self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self._unread_since = self.loop.time()
        self.loop.call_soon(self._bound_unread)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._unread_since = None

    def _look(self) -> None:
        now = self.loop.time()
        self._looking = self.loop.call_later(_LOOK_S, self._look)
        if self._unread_since is not None and now - self._unread_since > _READ_S:
            self.transport.abort()
        elif not self._owes_a_call():
            self._owing = None
        elif self._owing is None or self._owing[1] is not self.cycle:
            self._owing = now, self.cycle
        elif now - self._owing[0] > _HEAD_S:
            self.transport.abort()

    def _owes_a_call(self) -> bool:
        """Whether no call is going on and uvicorn isn't counting the seconds to the next one either."""
        return self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete)

    def _make_way(self) -> None:
        """Close the connection that has been owing a call for longest; a new one where all others are of use."""
        there = [c for c in self._all() if not c.transport.is_closing()]
        if len(there) <= _MOST:
            return
        owing = [(c._owing[0], c) for c in there if c is not self and c._owing is not None and c._owes_a_call()]
        given_up = min(owing, key=lambda one: one[0])[1] if owing else self
        given_up.transport.abort()

    def _bound_unread(self) -> None:
        """Cut off whoever has been reading for longest until what waits to be read fits."""
        unread = [(c._unread_since, c) for c in self._all() if c._unread_since is not None]
        sizes = {c: c.transport.get_write_buffer_size() for _, c in unread}
        too_many = sum(sizes.values()) - _MOST_UNREAD
        for _, slow in sorted(unread, key=lambda one: one[0]):
            if too_many <= 0:
                return
            too_many -= sizes[slow]
            slow.transport.abort()

    def _all(self) -> list[Connection]:
        return [c for c in self.connections if isinstance(c, Connection)]
