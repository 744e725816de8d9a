"""`aap up`, `down`, `status`, `serve`, `live`: what runs, started, stopped and listed; and two of it in this terminal."""

from __future__ import annotations

import signal
from threading import Event
from typing import Annotated

import typer

from aap.cli.background_services import Service, services, start_all, stop_all
from aap.cli.terminal import configure_logs, console, err, print_error, table
from aap.config import Settings, load_settings
from aap.infra.errors import StorageError
from aap.infra.paths import Layout
from aap.infra.process import supervisor
from aap.infra.process.supervisor import ProcessStatus

__all__ = ["down", "live", "serve", "status", "up"]


def up() -> None:
    """Start Redis, the prediction service, live features and the MLflow and Feast pages; print where they are."""
    settings = load_settings()
    with err.status("Starting…"):
        problems = start_all(settings)
    _print_status(settings)
    for sentence in problems:
        print_error(sentence)
    if problems:
        raise typer.Exit(1)


def down() -> None:
    """Stop everything that `aap up` started; calls in flight are answered first."""
    with err.status("Stopping…"):
        stopped = stop_all(load_settings())
    console.print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


def status() -> None:
    """Show what runs, where and since when; and whether a key that opens archive and ids is missing."""
    from aap.infra.keyring import open_keyring

    settings = load_settings()
    _print_status(settings)
    try:
        open_keyring(Layout(settings.home)).check()
    except StorageError as error:
        print_error(str(error))


def serve(
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, 0 for a free one; AAP_PORT otherwise.", min=0, max=65535)
    ] = None,
) -> None:
    """Answer predictions over HTTP on this machine, until Ctrl-C."""
    from aap.serving.server import Listening, serve as run

    def say(place: Listening) -> None:
        how = "" if settings.open_docs else " (sign in with any name and an API key)"
        console.print(
            f"The service answers on {place.url}; {place.url}/docs describes it{how}. Ctrl-C stops it.", soft_wrap=True
        )

    settings = load_settings()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    configure_logs(settings)
    raise typer.Exit(run(settings, ready=say))


def live(
    workers: Annotated[int, typer.Option(help="Worker processes; at most 4 share the log.", min=1, max=4)] = 1,
    drain_every: Annotated[float, typer.Option(help="Seconds between two writes to the archive.", min=0.5)] = 10.0,
    watch: Annotated[bool, typer.Option(help="Score events, sessions and people for anomalies.")] = False,
) -> None:
    """Fold live events into the online features as they come, and write them to the archive. Ctrl-C ends it."""
    from aap.jobs.streaming.supervisor import run

    settings = load_settings()
    stop = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    console.print(f"Folding live events with {workers} worker{'s' if workers > 1 else ''}.")
    run(settings, workers=workers, drain_every_s=drain_every, watch_too=watch, stop=stop)


def _print_status(settings: Settings) -> None:
    rows = [_redis_row(settings)]
    for service in services(settings):
        if service.elsewhere is not None:
            rows.append((service.title, "elsewhere", None, service.elsewhere, None))
        else:
            rows.append(_process_row(service, supervisor.status(service.name, layout=Layout(settings.home))))
    table("what", "state", "pid", "address", "since", rows=rows, numbers=["pid"])


Row = tuple[str, str, object, object, object]


def _redis_row(settings: Settings) -> Row:
    from aap.infra.redis import connection

    found = connection.status(settings)
    state = "running" if found.running else f"unreachable: {found.problem}" if found.problem else "stopped"
    return "Redis", state, found.pid, found.address, _moment(found.since)


def _process_row(service: Service, found: ProcessStatus) -> Row:
    state = f"died: see {service.name}.log" if found.state == "died" else found.state
    told = service.tells()
    if told and found.state != "running":
        state = "running, not by `up`"
    address = told or found.address
    return service.title, state, found.pid, address, _moment(found.since)


def _moment(moment: object) -> str | None:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else None
