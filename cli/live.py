"""`aap live`: fold live events into the online features, and write the archive from the same log."""

from __future__ import annotations

import signal
from threading import Event
from typing import Annotated

import typer

from cli.console import console
from settings.config import load_settings

__all__ = ["live"]


def live(
    workers: Annotated[int, typer.Option(help="Worker processes; at most 4 share the log.", min=1, max=4)] = 1,
    drain_every: Annotated[float, typer.Option(help="Seconds between two writes to the archive.", min=0.5)] = 10.0,
    watch: Annotated[bool, typer.Option(help="Score events, sessions and people for anomalies.")] = True,
) -> None:
    """Fold live events into the online features as they come, and write them to the archive. Ctrl-C ends it."""
    from pipelines.live import run

    settings = load_settings()
    stop = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    console.print(f"Folding live events with {workers} worker{'s' if workers > 1 else ''}.")
    run(settings, workers=workers, drain_every_s=drain_every, watch_too=watch, stop=stop)
