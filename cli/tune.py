"""`aap tune`: search for better training settings."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli.console import console, counted, table
from settings.config import load_settings

__all__ = ["tune"]


def tune(
    model: Annotated[str, typer.Argument(help="recommendation, churn, anomaly or popularity.")],
    trials: Annotated[int, typer.Option(min=1, help="How many in all, those of earlier sittings included.")] = 40,
    cuts: Annotated[int, typer.Option(min=1, help="Past moments each trial is judged at.")] = 3,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="As of a past moment (UTC); [dim]this week's Monday[/].", show_default=False),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the winners into settings/training.yaml.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Search for better training settings, on earlier days than any reported figure is of.

    Interrupted and run again it goes on where it was. Every trial is a run in MLflow.
    """
    from feature_repo.retrieval import open_retrieval
    from models.registry import open_registry
    from models.rewriting import write_settings
    from models.roster import model_class
    from models.tuning import tune as search
    from pipelines.promotion import training_settings
    from storage.layout import Layout

    settings = load_settings()
    now = settings.now()
    moment = _monday(now) if as_of is None else as_of.replace(tzinfo=as_of.tzinfo or UTC)
    if moment > now:
        raise typer.BadParameter(f"{moment:%Y-%m-%d} is in the future.")
    with counted(f"Tuning {model}") as report:
        found = search(
            model_class(model).name,
            retrieval=open_retrieval(settings),
            registry=open_registry(settings),
            settings=training_settings(settings),
            as_of=moment,
            folder=Layout(settings.home).tuning,
            trials=trials,
            cuts=cuts,
            progress=report,
        )
    rows = [
        (f"{cut:%Y-%m-%d}", f"{b:.4f}", f"{a:.4f}")
        for cut, b, a in zip(found.cuts, found.before, found.after, strict=True)
    ]
    table(
        "judged after",
        f"{found.headline} now",
        "best found",
        rows=rows,
        numbers=[f"{found.headline} now", "best found"],
    )
    changed = ", ".join(f"{name} {value:.4g}" for name, value in found.changed.items()) or "nothing: the settings stay"
    console.print(f"{found.finished} trials, {found.pruned} given up early. Best: {changed}.", soft_wrap=True)
    if write and found.changed:
        file = settings.settings_dir / "training.yaml"
        write_settings(file, model=model, values=found.changed)
        console.print(f"Written to {file}; `aap train {model}` trains with them, and the gate decides.", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "written": bool(write and found.changed)}))


def _monday(now: datetime) -> datetime:
    """The start of the week: so that every sitting of a week goes on with the same study."""
    return (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
