"""Live features: worker processes that fold the event log into the online rows, and the archive written from the same log."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event

from aap.config import Settings, load_settings
from aap.consent.errors import LedgerUnavailable
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.events.schema import EVENT_TYPES
from aap.events.streaming.archiver import Admitted
from aap.infra.errors import StorageError
from aap.infra.object_store import archive_folder
from aap.infra.redis.connection import connect
from aap.jobs.ingest import archive_live_events
from aap.jobs.streaming.experiment_monitor import look
from aap.jobs.streaming.worker import FAILED, LiveWorker
from aap.project.loader import project_module

__all__ = ["run", "score_anomalies", "work"]

_DRAIN_S = 10.0
_SETTLED_S = 60.0
"""The first look at the experiments comes so long after the start, if not sooner: workers read the archive first."""


def work(home: str, parent: int) -> None:
    """A worker process: until it is told to stop, or the process that started it is gone."""
    gc.freeze()  # what is loaded stays: nothing in it need be looked through again
    settings = load_settings(Path(home))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = LiveWorker(connect(settings, start=False), Archive(archive_folder(settings)), settings.now)
    worker.run(lambda: stop.is_set() or os.getppid() != parent, tell=lambda problem: _tell(f"{problem}\n"))


def score_anomalies(home: str, parent: int) -> None:
    """The process that scores what happens. It asks for the project's module here: spawned, it begins with nothing loaded."""
    project_module("pipelines.anomaly_scoring.process").watch(home, parent)


def run(
    settings: Settings,
    *,
    workers: int = 1,
    drain_every_s: float = _DRAIN_S,
    watch_too: bool = False,
    stop: Event | None = None,
) -> None:
    """Keep `workers` workers going and the archive written, until `stop` is set. A worker that dies is replaced, and an
    embedded Redis that dies is started again when next the archive is written.

    With `watch_too`, a process of its own reads the same log and scores what happens (`pipelines.anomaly_scoring.scorer`).
    Every `settings.watch_minutes` another looks at the running experiments (`aap.jobs.streaming.experiment_monitor`).
    """
    stop = stop or Event()
    connect(settings).close()
    running: list[BaseProcess] = []
    watcher: BaseProcess | None = None
    looks = _Looks(settings)
    admitted = Admitted(open_ledger(settings))
    drained = float("-inf")
    gc.freeze()  # what is loaded stays: nothing in it need be looked through again
    try:
        while not stop.is_set():
            running = [p for p in running if p.is_alive()]
            while len(running) < workers:
                running.append(_start(work, settings))
            if watch_too and (watcher is None or not watcher.is_alive()):
                watcher = _start(score_anomalies, settings)
            looks.keep_up()
            if time.monotonic() - drained >= drain_every_s:
                _drain(settings, admitted)
                drained = time.monotonic()
            stop.wait(0.2)
    finally:
        ending = [process for process in (*running, watcher, looks.process) if process]
        for process in ending:
            process.terminate()
        for process in ending:
            process.join(timeout=10)
        _drain(settings, admitted)


class _Looks:
    """Starts a look at the experiments when it is time and the last one has ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._every_s = settings, settings.watch_minutes * 60
        self._due = time.monotonic() + min(_SETTLED_S, self._every_s)
        self.process: BaseProcess | None = None

    def keep_up(self) -> None:
        """Call it every now and then; it never waits."""
        if not self._every_s or time.monotonic() < self._due or (self.process and self.process.is_alive()):
            return
        self.process = _start(look, self._settings)
        self._due = time.monotonic() + self._every_s


def _tell(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


def _start(target: Callable[[str, int], None], settings: Settings) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=(str(settings.home), os.getpid()))
    process.start()
    return process


def _drain(settings: Settings, admitted: Admitted) -> None:
    """Write the archive. What can't be done now is done next time: the log keeps it."""
    with contextlib.suppress(StorageError, LedgerUnavailable, *FAILED):
        admitted.since(
            set(EVENT_TYPES), now=settings.now()
        )  # a crowd takes seconds, best spent before there are events
        archive_live_events(settings, now=settings.now(), admitted=admitted, wait_s=0.0)
