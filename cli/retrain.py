"""`aap retrain`: the weekly job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.console import console, counted
from cli.train import print_outcome
from settings.config import load_settings

__all__ = ["retrain"]


def retrain(
    as_of: Annotated[datetime | None, typer.Option(help="Run as of a past moment (UTC); now by default.")] = None,
) -> None:
    """Import what is new, build features, report drift, train, judge, and promote what passes the gate.

    Killed anywhere and run again, it goes on where it was. `docs/schedule.md` shows the cron and systemd lines.
    """
    from pipelines.retrain import retrain as run

    settings = load_settings()
    now = settings.now()
    moment = now if as_of is None else as_of.replace(tzinfo=as_of.tzinfo or UTC)
    if moment > now:
        raise typer.BadParameter(f"{moment:%Y-%m-%d} is in the future.")
    with counted("Retraining") as report:
        result = run(settings, as_of=moment, say=lambda _step, done, total: report(done, total))
    if result.resumed:
        console.print(f"Went on with the retrain of {result.as_of[:16]}, which had not finished.")
    for name, record in result.steps.items():
        if name.startswith("train "):
            print_outcome(record.result)
    served = result.steps["consistency"].result
    if served["checked"]:
        console.print(f"{served['checked']:,} served values recomputed: {served['mismatches']:,} mismatched.")
    console.print(f"Summary: {result.summary}", soft_wrap=True)
