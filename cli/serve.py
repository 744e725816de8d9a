"""`aap serve`: answer over HTTP until told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import configure_logs, console
from settings.config import load_settings

__all__ = ["serve"]


def serve(
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, 0 for a free one; AAP_PORT otherwise.", min=0, max=65535)
    ] = None,
) -> None:
    """Answer predictions over HTTP on this machine, until Ctrl-C."""
    from serving.run import Listening, serve as run

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
