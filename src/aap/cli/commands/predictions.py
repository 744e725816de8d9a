"""`aap replay`: make an answer again from its record."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from aap.cli.terminal import console
from aap.config import load_settings
from aap.infra.paths import Layout

__all__ = ["replay"]


def replay(
    prediction_id: Annotated[str, typer.Argument(help="The prediction_id of an answer.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Make an answer again from its stored inputs and the model that made it; exits with 1 unless it is the same."""
    from aap.features.retrieval import open_retrieval
    from aap.modeling.registry.registry import open_registry
    from aap.serving.analysis.replay import find, replay as again
    from aap.serving.inference.catalog_filter import Shelves, catalogue_stamp

    settings = load_settings()
    layout = Layout(settings.home)
    record = find(prediction_id, records=layout.predictions)
    door = open_retrieval(settings)
    shelves = Shelves(door.catalogue, stamp=lambda: catalogue_stamp(layout))
    found = again(record, registry=open_registry(settings), consent=door, shelves=shelves, now=settings.now())
    if as_json:
        typer.echo(json.dumps(asdict(found), default=str))
    else:
        console.print(
            f"{found.endpoint} at {found.time:%Y-%m-%d %H:%M:%S} UTC by {found.model} version {found.version}."
        )
        if found.same is None:
            console.print(f"It can't be made again: {found.why_not}.", soft_wrap=True, highlight=False)
        else:
            console.print("Made again, and every bit is the same." if found.same else "Made again, and it DIFFERS.")
            console.print(
                f"recorded {json.dumps(found.recorded)}\ncomputed {json.dumps(found.computed)}", soft_wrap=True
            )
    raise typer.Exit(0 if found.same else 1)
