"""Load: the same HTTP request over and over on a few kept-alive connections, with next to no work of our own.

An ordinary client library costs a millisecond a call, as much as what is measured; this one writes bytes it was given
and reads until the body has arrived.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvloop

from benchmarks.support.environment import percentile_ms

__all__ = ["Connection", "Figures", "Target", "cpu_seconds", "json_body", "measure", "run_loop"]


@dataclass(frozen=True, slots=True)
class Target:
    """One request to one server, and the process whose processor time its answers cost (with its children)."""

    port: int
    path: str
    body: bytes
    process: psutil.Process | None = None
    headers: tuple[str, ...] = ()

    def request(self) -> bytes:
        """The bytes of the request."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n" + "".join(f"{h}\r\n" for h in self.headers) + "\r\n"
        )
        return head.encode() + self.body


@dataclass(slots=True)
class Figures:
    """What a target did, over all of its turns."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Latencies, answers a second, and processor time of the server a request."""
        count = len(self.seconds)
        return {
            "p50_ms": percentile_ms(self.seconds, 50),
            "p99_ms": percentile_ms(self.seconds, 99),
            "rps": round(count / self.wall_s, 1),
            "cpu_ms": round(1_000 * self.cpu_s / count, 4),
            "requests": count,
            "failed": self.failed,
        }


class Connection:
    """One kept-alive connection, opened again when the server closes it between two requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(b"content-length:") + 15
        body = await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        if b"connection: close" in head:
            await self.close()
        return int(head[9:12]), body

    async def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def measure(target: Target, figures: Figures, *, connections: int, count: int) -> None:
    """Ask `count` times over `connections`, and add what came of it to `figures`."""
    request, left = target.request(), iter(range(count))

    async def one() -> None:
        connection = Connection(target.port)
        for _ in left:
            begun = time.perf_counter()
            status, _body = await connection.ask(request)
            figures.seconds.append(time.perf_counter() - begun)
            figures.failed += status != 200
        await connection.close()

    before, begun = cpu_seconds(target.process), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    figures.wall_s += time.perf_counter() - begun
    figures.cpu_s += cpu_seconds(target.process) - before


def cpu_seconds(process: psutil.Process | None) -> float:
    """Processor time that a process and the children it has now have used."""
    if process is None:
        return 0.0
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def run_loop(main: Callable[[], Any]) -> Any:
    """Run a coroutine function to its end in a fast event loop.

    What this process holds by now (a shop was trained in it) is set aside meanwhile: the garbage collector, looking
    through all of it, would stop the caller for a fifth of a second, and that would be told as the server's.
    """
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    finally:
        gc.unfreeze()


def json_body(body: Any) -> bytes:
    """`body` as it is sent."""
    return json.dumps(body).encode()
