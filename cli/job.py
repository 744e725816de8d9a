"""`aap job`: the daily and the monthly job."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from cli.console import console, counted
from settings.config import load_settings

__all__ = ["job"]


def job(
    name: Annotated[str, typer.Argument(help="daily: aggregates; monthly: the trend report.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Run one of the smaller jobs once. Killed and run again it goes on where it was; the weekly one is `aap retrain`."""
    from pipelines.jobs import JOBS, run

    if name not in JOBS:
        raise typer.BadParameter(f"No job {name!r}; choose one of: {', '.join(JOBS)}. The weekly one is `aap retrain`.")
    settings = load_settings()
    with counted(f"The {name} job") as report:
        result = run(settings, name, as_of=settings.now(), say=lambda _step, done, total: report(done, total))
    for step, record in result.steps.items():
        told = ", ".join(f"{key} {value}" for key, value in record.result.items() if isinstance(value, int | str))
        console.print(f"{step}: {told}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
