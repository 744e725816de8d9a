"""`aap console`: the page that shows how the platform is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aap.cli.terminal import console, counted
from aap.config import load_settings

__all__ = ["dashboard"]


def dashboard(
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the page into this file instead, from what is stored; no service needs to run.", dir_okay=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Say where the console is, or save it: models, experiments, features, consent, drift and latency on one page.

    Sign in with any name and, as the password, an API key of scope admin.
    """
    settings = load_settings()
    if save is not None:
        from aap.infra.atomic_files import write_atomically
        from aap.serving.dashboard.data import gather
        from aap.serving.dashboard.page import render

        with counted("Gathering"):
            page = render(gather(settings, now=settings.now()))
        write_atomically(save.resolve(), page.encode(), durable=False)
        told = {"file": str(save)}
        console.print(
            f"The page is in {save}; it tells nothing of calls, which the running service counts.", soft_wrap=True
        )
    else:
        from aap.infra.errors import ProcessFailed
        from aap.serving.server import listening

        place = listening(settings)
        if place is None:
            raise ProcessFailed(
                "No service runs in this home: start it with `aap up`, or use `aap console --save FILE`."
            )
        told = {"url": f"{place.url}/console"}
        console.print(
            f"The console is at {told['url']}. Sign in with any name and, as the password, an API key made with "
            "`aap keys create NAME --scope admin`.",
            soft_wrap=True,
        )
    if as_json:
        typer.echo(json.dumps(told))
