"""The process of the watch, beside the live workers: low in priority, and nothing is loaded before there is a model."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from threading import Event

from aap.config import Settings, load_settings
from aap.infra.paths import Layout

__all__ = ["watch"]

_STEP_S = 0.5
_REFRESH_S = 30.0
_AGAIN_S = 2.0
_POLITENESS = 10


def watch(home: str, parent: int) -> None:
    """Score what happens until told to stop, or until the process that started this one is gone."""
    settings, stop = load_settings(Path(home)), Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_POLITENESS)
    while not _trained(settings) and not stop.is_set() and os.getppid() == parent:
        stop.wait(_STEP_S)
    if not stop.is_set() and os.getppid() == parent:
        _watch(settings, stop, parent=parent)


def _watch(settings: Settings, stop: Event, *, parent: int) -> None:
    from aap.features.errors import FeatureError
    from aap.features.retrieval import open_retrieval
    from aap.infra.parquet_writer import Batches
    from aap.infra.redis.connection import connect
    from aap.jobs.streaming.alerts import SCHEMA
    from aap.jobs.streaming.worker import FAILED
    from aap.modeling.registry.provenance import open_provenance
    from pipelines.anomaly_scoring.scorer import Champions, Watch

    kept = Batches(Layout(settings.home).alerts, SCHEMA)
    champions, refreshed = Champions(open_provenance(settings)), float("-inf")
    client, retrieval = connect(settings, start=False), open_retrieval(settings)
    watching = Watch(client, retrieval, champions, kept.add, kept.flush, settings.now)
    try:
        while not stop.is_set() and os.getppid() == parent:
            if time.monotonic() - refreshed >= _REFRESH_S:
                champions.refresh()
                refreshed = time.monotonic()
            pause = _AGAIN_S
            with contextlib.suppress(FeatureError, *FAILED):  # its place in the log stays, and it is tried again
                pause = 0.0 if watching.step() else _STEP_S
            stop.wait(pause)
    finally:
        kept.close()


def _trained(settings: Settings) -> bool:
    return bool(settings.mlflow_url) or (Layout(settings.home).mlflow / "mlflow.db").exists()
