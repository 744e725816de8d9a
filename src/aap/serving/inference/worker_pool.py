"""The back room: threads apart for work that waits for Redis, the ledger or a disk.

Such work can't be ended once it has begun. Where it hangs it keeps these few threads, and neither the ones that health
and metrics are answered from, nor a caller past the deadline: who gives up leaves, and the work is finished or, where it
had not begun, dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["BackRoom"]

T = TypeVar("T")


class BackRoom:
    """At most `threads` pieces of work at once, the next ones in order."""

    def __init__(self, name: str, *, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"back-room:{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns. Raises what it raises."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    def close(self) -> None:
        """Take nothing more; what has begun goes on."""
        self._threads.shutdown(wait=False, cancel_futures=True)
