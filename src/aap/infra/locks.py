"""Locks between processes: one job at a time, held by the kernel, so a killed process never leaves one behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from aap.infra.atomic_files import make_folder
from aap.infra.errors import LockHeld

__all__ = ["hold"]

_POLL_S = 0.02


@contextmanager
def hold(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; `what` names the job in the error, e.g. "A retrain".

    Waits up to `wait_s` seconds, then raises `LockHeld`, which says who holds it and since when. The file itself stays:
    removing it would let two processes lock two files of one name.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor, path, what=what, wait_s=wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, *, what: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _held(descriptor, path, what=what) from None
            time.sleep(_POLL_S)
        else:
            return


def _held(descriptor: int, path: Path, *, what: str) -> LockHeld:
    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    if not holder.isdigit():
        return LockHeld(f"{what} is running already (lock {path}): wait until it ends.")
    since = datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC).replace(microsecond=0)
    return LockHeld(
        f"{what} is running already, as process {holder} since {since:%Y-%m-%d %H:%M:%S} UTC: wait until it ends.",
        pid=int(holder),
        since=since,
    )
