"""`aap models`: the versions there are, which one answers, and how good the models are."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import console, counted, err, table
from settings.config import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure

    from settings.config import Settings

__all__ = ["app"]

app = typer.Typer(help="List model versions; promote or roll back.", no_args_is_help=True)

_Model = Annotated[str, typer.Argument(help="A model's name.")]
_Version = Annotated[int, typer.Argument(help="A version's number.", min=1)]


@app.command("list")
def list_models() -> None:
    """List every version of every model, newest first."""
    from models.registry import open_registry
    from models.roster import MODELS

    registry = open_registry(load_settings())
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases) or None,
            v.tags.get("as_of", "")[:16],
            v.tags.get("rows"),
            _headline(v.tags, v.metrics),
        )
        for name in MODELS
        for v in registry.versions(name)
    ]
    if rows:
        table("model", "version", "alias", "as of", "rows", "measured", rows=rows, numbers=["version", "rows"])
    else:
        console.print("No model is trained yet; run `aap train all` or `aap retrain`.")


@app.command()
def why(model: _Model, version: _Version) -> None:
    """Say why a version was promoted or not."""
    from models.registry import open_registry

    found = open_registry(load_settings()).version(model, version)
    reasons = json.loads(found.tags.get("promotion_reasons", "[]"))
    console.print("\n".join(reasons) or "No decision is recorded for it.", soft_wrap=True, highlight=False)


@app.command()
def promote(model: _Model, version: _Version) -> None:
    """Make a version the champion, whatever the gate said; the service takes it up within seconds."""
    from models.registry import open_registry

    found = open_registry(load_settings()).promote(model, version, reasons=("Promoted by hand.",))
    console.print(f"{found.name} version {found.version} is the champion.")


@app.command()
def rollback(model: _Model) -> None:
    """Go back to the champion before this one."""
    from models.registry import open_registry

    found = open_registry(load_settings()).rollback(model)
    console.print(f"{found.name} version {found.version} is the champion again.")


@app.command()
def report(
    home: Annotated[
        Path | None,
        typer.Option(
            help="Judge on this home's data and consent; [dim]else on the demo's shop with everybody's[/].",
            show_default=False,
            file_okay=False,
            exists=True,
        ),
    ] = None,
    cut: Annotated[
        datetime | None,
        typer.Option(help="Learn before, judge after; [dim]2017-12-01[/].", formats=["%Y-%m-%d"], show_default=False),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these; [dim]all[/].", show_default=False)] = None,
    weeks: Annotated[int, typer.Option(min=0, help="Judge churn at so many weekly cuts before as well.")] = 0,
    price: Annotated[bool, typer.Option(help="Tell how each model does as fewer people agree.")] = True,
    plots: Annotated[
        Path | None, typer.Option(help="Put the plots of the price of consent here.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Judge every model at one fixed cut beside every baseline, on all data; nothing is registered."""
    from feature_repo.retrieval import open_retrieval
    from models.report import REPORTED, report as judge, with_price
    from models.roster import model_class
    from pipelines.all_data import CUT, who_said_yes
    from pipelines.promotion import training_settings

    chosen = [model_class(name).name for name in model or REPORTED]
    with counted("Measuring") as bar:
        steps = iter(range(1, 1_000))

        def tell(stage: str) -> None:
            bar(next(steps))
            err.print(f"[dim]{stage}[/]", highlight=False)

        with _home(home, tell) as settings:
            door, training = open_retrieval(settings), training_settings(settings)
            at = cut.replace(tzinfo=UTC) if cut else CUT
            found = judge(door, settings=training, cut=at, models=chosen, weeks=weeks, progress=tell)
            if price:
                yes = None if home else who_said_yes(settings, at=at)
                drawn = with_price(found, door, settings=training, cut=at, consented=yes, progress=tell)
                _save(drawn, plots)
    for name, told in found.items():
        _print_report(name, told)
    if as_json:
        typer.echo(json.dumps(found))


def _home(home: Path | None, tell: Callable[[str], None]) -> AbstractContextManager[Settings]:
    from pipelines.all_data import everyone_agrees

    return everyone_agrees(tell) if home is None else nullcontext(load_settings(home))


def _save(drawn: Mapping[str, Figure], folder: Path | None) -> None:
    """Write each plot as PNG into `folder`, if one is named."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / f"price-of-consent-{name}.png")


def _print_report(name: str, told: dict[str, Any]) -> None:
    """A model's figures, a line a part, with its baselines."""
    parts = {f"{name} {key}": part for key, part in told.items() if isinstance(part, dict) and "interval" in part}
    rows = []
    for part, found in (parts or {name: told}).items():
        figures = {k: v for k, v in found.items() if isinstance(v, float)}
        rows += [(part, metric, f"{value:.4f}") for metric, value in figures.items()]
        for rival, theirs in found["baselines"].items():
            shown = theirs.items() if isinstance(theirs, dict) else [("", theirs)]
            rows += [(f"  {rival}", metric, f"{value:.4f}") for metric, value in shown]
    for people, theirs in told.get("price", {}).items():
        if isinstance(theirs, dict):
            of = f"  {people} %" if people.isdigit() else f"  {people}"
            rows += [(of, metric, "too few" if value is None else f"{value:.4f}") for metric, value in theirs.items()]
    table("model", "metric", "figure", rows=rows, numbers=["figure"])


def _headline(tags: dict[str, str], metrics: dict[str, float]) -> str | None:
    name = tags.get("headline", "")
    return f"{name} {metrics[name]:.4f}" if name in metrics else None
