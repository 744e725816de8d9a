"""`aap job` and `aap schedule`: a job run once, and the text that has cron, systemd or Kubernetes run them all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aap import __version__
from aap.cli.terminal import console, counted
from aap.config import load_settings
from aap.project.loader import current_project, project_module

if TYPE_CHECKING:
    from aap.jobs.run_state import RetrainResult

__all__ = ["job", "schedule"]

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


def schedule(
    kind: Annotated[str, typer.Argument(help="cron, systemd or kubernetes.")],
    job: Annotated[
        list[str] | None,
        typer.Option(help="Only these: hourly, daily, weekly, monthly; [dim]all[/].", show_default=False),
    ] = None,
    user: Annotated[str, typer.Option(help="Whom systemd runs it as.")] = "aap",
    program: Annotated[
        Path | None, typer.Option("--aap", help="The aap program; [dim]this one[/].", show_default=False)
    ] = None,
    image: Annotated[str, typer.Option(help="The container image, for kubernetes.")] = f"aap:{__version__}",
    claim: Annotated[str, typer.Option(help="The volume claim that holds the home, for kubernetes.")] = "aap-home",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Print what has the jobs run by themselves; install nothing.

    hourly: guardrails; daily: aggregates; weekly: the retrain; monthly: the trend report.
    `docs/schedule.md` says where the text goes.
    """
    from aap.jobs.schedule import KINDS, SCHEDULED, Place

    if kind not in KINDS:
        raise typer.BadParameter(f"No kind {kind!r}; choose one of: {', '.join(KINDS)}.")
    if unknown := [name for name in job or () if name not in SCHEDULED]:
        raise typer.BadParameter(f"No job {unknown[0]!r}; choose of: {', '.join(SCHEDULED)}.")
    jobs = [SCHEDULED[name] for name in job or SCHEDULED]
    home, project = load_settings().home.resolve(), current_project().root
    place = Place(program or _this_program(), home, project, user, image, claim)
    text = KINDS[kind](jobs, place)
    typer.echo(
        json.dumps({"kind": kind, "jobs": [j.name for j in jobs], "text": text}) if as_json else text, nl=as_json
    )


def _this_program() -> Path:
    beside = Path(sys.executable).with_name("aap")
    return beside if beside.exists() else Path(shutil.which("aap") or "aap").absolute()
