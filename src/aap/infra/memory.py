"""Peak memory of all that runs for one home: this process, what it starts, the services that outlive it, and Redis.

The operating system's own figure for children won't do: to Linux a child has used, before it began, what its parent had. Nor
will the plain sum: each of ten processes would count the same libraries.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

from aap.infra.paths import Layout
from aap.infra.process import supervisor
from aap.infra.redis import embedded_server

__all__ = ["PeakMemory"]

_EVERY_S = 0.2


class PeakMemory:
    """Looks five times a second while it is entered; what grows and shrinks within that time is missed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self.bytes = 0
        """The most that was resident at once: what each process has for itself, and once what they share, which is taken
        for as much as the one has that shares most."""

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            own, shared = zip(*map(_resident, self._all()), strict=True)
            self.bytes = max(self.bytes, sum(own) + max(shared))
            if self._ended.wait(_EVERY_S):
                return

    def _all(self) -> set[psutil.Process]:
        found: set[psutil.Process] = set()
        for pid in self._roots():
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                found |= {root, *root.children(recursive=True)}
        return found

    def _roots(self) -> Iterator[int]:
        yield psutil.Process().pid
        for name in supervisor.names(self._layout):
            if pid := supervisor.status(name, layout=self._layout).pid:
                yield pid
        if (server := embedded_server.read_state(self._layout)) is not None and server.identity.is_alive():
            yield server.pid


def _resident(process: psutil.Process) -> tuple[int, int]:
    """Bytes a process has for itself, and bytes it may share with others, which only Linux tells."""
    try:
        found = process.memory_info()
    except psutil.Error:
        return 0, 0
    shared = getattr(found, "shared", 0)
    return found.rss - shared, shared
