"""`aap schedule`: the text that has cron, systemd or Kubernetes run the jobs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from settings.config import load_settings

__all__ = ["schedule"]


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
    image: Annotated[str, typer.Option(help="The container image, for kubernetes.")] = "aap:0.1.0",
    claim: Annotated[str, typer.Option(help="The volume claim that holds the home, for kubernetes.")] = "aap-home",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Print what has the jobs run by themselves; install nothing.

    hourly: guardrails; daily: aggregates; weekly: the retrain; monthly: the trend report.
    `docs/schedule.md` says where the text goes.
    """
    from pipelines.schedule import KINDS, SCHEDULED, Place

    if kind not in KINDS:
        raise typer.BadParameter(f"No kind {kind!r}; choose one of: {', '.join(KINDS)}.")
    if unknown := [name for name in job or () if name not in SCHEDULED]:
        raise typer.BadParameter(f"No job {unknown[0]!r}; choose of: {', '.join(SCHEDULED)}.")
    jobs = [SCHEDULED[name] for name in job or SCHEDULED]
    place = Place(program or _this_program(), load_settings().home.resolve(), user, image, claim)
    text = KINDS[kind](jobs, place)
    typer.echo(
        json.dumps({"kind": kind, "jobs": [j.name for j in jobs], "text": text}) if as_json else text, nl=as_json
    )


def _this_program() -> Path:
    beside = Path(sys.executable).with_name("aap")
    return beside if beside.exists() else Path(shutil.which("aap") or "aap").absolute()
