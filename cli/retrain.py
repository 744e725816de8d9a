"""`aap retrain`: the weekly job."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import console, counted, table
from cli.train import print_outcome
from project.loader import project_module
from settings.config import Settings, load_settings

if TYPE_CHECKING:
    from pipelines.run_record import RetrainResult

__all__ = ["retrain"]


def retrain(
    as_of: Annotated[datetime | None, typer.Option(help="Fill in a past week (UTC); now by default.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", help="The first of several past weeks.", formats=["%Y-%m-%d"])
    ] = None,
    weeks: Annotated[int, typer.Option(min=1, help="How many weeks from there on.")] = 1,
    model: Annotated[
        list[str] | None, typer.Option(help="Of past weeks, only these; [dim]all[/].", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Import what is new, build features, report drift, train, judge, and promote what passes the gate.

    Killed anywhere and run again, it goes on where it was. With --as-of a past week is filled in, with --from and --weeks
    several, oldest first: nothing is imported or brought online for them, and no champion that knows later days is
    replaced.
    """
    from models.roster import MODELS, model_class

    past_weeks = project_module("pipelines.backfill")
    settings = load_settings()
    now = settings.now()
    if first is not None:
        _replay(settings, first=first.replace(tzinfo=UTC), weeks=weeks, models=model, as_json=as_json)
        return
    moment = now if as_of is None else as_of.replace(tzinfo=as_of.tzinfo or UTC)
    if moment > now:
        raise typer.BadParameter(f"{moment:%Y-%m-%d} is in the future.")
    past = now - moment > timedelta(days=1) or past_weeks.is_past(settings, moment)
    if model and not past:
        raise typer.BadParameter("--model is for past weeks; `aap train` trains one model as of now.")
    with counted("Retraining") as report:

        def say(_step: str, done: int, total: int) -> None:
            report(done, total)

        chosen = [model_class(name).name for name in model or MODELS]
        result: RetrainResult = (
            past_weeks.retrain_past(settings, as_of=moment, models=chosen, say=say)
            if past
            else project_module("pipelines.retrain").retrain(settings, as_of=moment, say=say)
        )
    _print(result)
    if as_json:
        typer.echo(json.dumps(asdict(result)))


def _print(result: RetrainResult) -> None:
    if result.resumed:
        console.print(f"Went on with the retrain of {result.as_of[:16]}, which had not finished.")
    for name, record in result.steps.items():
        if name.startswith("train "):
            print_outcome(record.result)
    served = result.steps.get("consistency")
    if served and served.result["checked"]:
        found = served.result
        console.print(f"{found['checked']:,} served values recomputed: {found['mismatches']:,} mismatched.")
    if result.summary:
        console.print(f"Summary: {result.summary}", soft_wrap=True)


def _replay(settings: Settings, *, first: datetime, weeks: int, models: list[str] | None, as_json: bool) -> None:
    """Several past weeks, and how good the champions were."""
    from models.roster import MODELS, model_class

    chosen = [model_class(name).name for name in models or MODELS]
    with counted("Retraining, week by week") as report:
        found = project_module("pipelines.backfill").replay(
            settings, first=first, weeks=weeks, models=chosen, say=lambda _week, done, total: report(done, total)
        )
    rows = [(day, *(_decided(week.get(name)) for name in chosen)) for day, week in found.weeks.items()]
    table("week", *chosen, rows=rows)
    console.print(f"The weeks as a page: {found.pages[0]}", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps({"weeks": found.weeks, "pages": [str(p) for p in found.pages]}))


def _decided(outcome: dict[str, Any] | None) -> str | None:
    if outcome is None:
        return None
    return "promoted" if outcome["promoted"] else "kept" if "version" in outcome else "not trained"
