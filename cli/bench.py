"""`aap bench`: measure the platform on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.console import table

__all__ = ["app"]

app = typer.Typer(help="Measure the platform on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure the platform on this machine."""


@app.command()
def live(
    people: Annotated[int, typer.Option(help="People with events.", min=1)] = 100_000,
    seconds: Annotated[float, typer.Option(help="Length of the steady run.")] = 10.0,
    events: Annotated[int, typer.Option(help="Events of the burst.", min=1_000)] = 200_000,
    workers: Annotated[int, typer.Option(help="Worker processes of the burst.", min=1, max=4)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Events appended to the log until readable in the online vectors, and whether any is lost or counted twice."""
    from benchmarks.live import run

    found = run(people=people, steady_s=seconds, burst=events, workers=workers)
    if as_json:
        typer.echo(json.dumps(found))
        return
    table("run", "what", "figure", rows=[(r, k, f"{v:,}") for r, of in found.items() for k, v in of.items()])
