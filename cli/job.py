"""`aap job`: the daily and the monthly job."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import console, counted
from project.loader import project_module
from settings.config import load_settings

if TYPE_CHECKING:
    from pipelines.run_record import RetrainResult

__all__ = ["job"]

_JOBS = ("daily", "monthly")


def job(
    name: Annotated[str, typer.Argument(help="daily: aggregates; monthly: the trend report.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Run one of the smaller jobs once. Killed and run again it goes on where it was; the weekly one is `aap retrain`."""
    if name not in _JOBS:
        raise typer.BadParameter(
            f"No job {name!r}; choose one of: {', '.join(_JOBS)}. The weekly one is `aap retrain`."
        )
    settings = load_settings()
    run = project_module(f"pipelines.{name}").run
    with counted(f"The {name} job") as report:
        result: RetrainResult = run(settings, as_of=settings.now(), say=lambda _step, done, total: report(done, total))
    for step, record in result.steps.items():
        told = ", ".join(f"{key} {value}" for key, value in record.result.items() if isinstance(value, int | str))
        console.print(f"{step}: {told}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
