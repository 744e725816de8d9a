"""Live features: worker processes that fold the event log into the online rows, and the archive written from the same log."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event

from consent.choices import open_ledger
from events.archive import Archive
from events.drain import Admitted
from pipelines.ingest import archive_live_events
from pipelines.live_worker import FAILED, LiveWorker
from settings.config import Settings, load_settings
from storage.errors import StorageError
from storage.folder import archive_folder
from storage.redis_server import connect

__all__ = ["run", "work"]

_DRAIN_S = 10.0


def work(home: str, parent: int) -> None:
    """A worker process: until it is told to stop, or the process that started it is gone."""
    settings = load_settings(Path(home))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = LiveWorker(connect(settings, start=False), Archive(archive_folder(settings)), settings.now)
    worker.run(lambda: stop.is_set() or os.getppid() != parent, tell=lambda problem: _tell(f"{problem}\n"))


def run(settings: Settings, *, workers: int = 1, drain_every_s: float = _DRAIN_S, stop: Event | None = None) -> None:
    """Keep `workers` workers going and the archive written, until `stop` is set. A worker that dies is replaced."""
    stop = stop or Event()
    connect(settings).close()
    running: list[BaseProcess] = []
    admitted = Admitted(open_ledger(settings))
    drained = time.monotonic()
    try:
        while not stop.is_set():
            running = [p for p in running if p.is_alive()]
            while len(running) < workers:
                running.append(_start_worker(settings))
            if time.monotonic() - drained >= drain_every_s:
                _drain(settings, admitted)
                drained = time.monotonic()
            stop.wait(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(timeout=10)
        _drain(settings, admitted)


def _tell(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


def _start_worker(settings: Settings) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(settings.home), os.getpid()))
    process.start()
    return process


def _drain(settings: Settings, admitted: Admitted) -> None:
    """Write the archive. What can't be done now is done next time: the log keeps it."""
    with contextlib.suppress(StorageError, *FAILED):
        archive_live_events(settings, now=settings.now(), admitted=admitted, wait_s=0.0)
