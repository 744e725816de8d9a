"""`aap job`: the daily and the monthly job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

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
        console.print(f"{step}: {_listed(record.result)}", soft_wrap=True, highlight=False, markup=False)
    if as_json:
        typer.echo(json.dumps(asdict(result)))


def _listed(found: Mapping[str, Any]) -> str:
    """What a step found, on one line; what is within something is in parentheses, and what is empty is left out."""
    return ", ".join(f"{name} {said}" for name, value in found.items() if (said := _said(value)))


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({inner})" if (inner := _listed(value)) else ""
    if isinstance(value, list):
        return ", ".join(said for one in value if (said := _said(one)))
    return str(value) if isinstance(value, int | str) else ""
