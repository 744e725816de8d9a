"""`aap train`, `aap tune`, `aap retrain`: one model or all, better settings for one, and the weekly job."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aap.cli.terminal import console, counted, table
from aap.config import Settings, load_settings
from aap.infra.paths import Layout
from aap.project.loader import project_module

if TYPE_CHECKING:
    from aap.jobs.run_state import RetrainResult

__all__ = ["print_outcome", "retrain", "train", "tune"]


def train(model: Annotated[str, typer.Argument(help="A model's name, or all; `aap models list` shows them.")]) -> None:
    """Train one model or all; each becomes the champion if the gate lets it through."""
    from aap.consent.service import open_ledger
    from aap.features.retrieval import open_retrieval
    from aap.modeling.catalog import model_class, model_classes
    from aap.modeling.registry.registry import open_registry
    from aap.modeling.train_and_promote import describe, train_and_decide, training_settings

    settings = load_settings()
    names = list(model_classes()) if model == "all" else [model_class(model).name]
    as_of = settings.now()
    training = training_settings(settings)
    outcomes = []
    with counted("Training") as report:
        for done, name in enumerate(names):
            report(done, len(names))
            outcome = train_and_decide(
                name,
                retrieval=open_retrieval(settings),
                registry=open_registry(settings),
                ledger=open_ledger(settings),
                settings=training,
                as_of=as_of,
            )
            outcomes.append(describe(outcome))
        report(len(names), len(names))
    for outcome_ in outcomes:
        print_outcome(outcome_)


def print_outcome(outcome: dict[str, Any]) -> None:
    """One model beside its baselines, and what was decided."""
    if "version" not in outcome:
        console.print(f"{outcome['model']}: {' '.join(outcome['reasons'])}\n", soft_wrap=True, highlight=False)
        return
    headline = outcome["headline"]
    shown = [k for k in outcome["metrics"] if any(k in b for b in outcome["baselines"].values())] or [headline]
    shown = [headline, *(k for k in shown if k != headline)][:5]
    rows = [[f"{outcome['model']} (version {outcome['version']})", *(_figure(outcome["metrics"], k) for k in shown)]]
    rows += [[f"  baseline: {n}", *(_figure(found, k) for k in shown)] for n, found in outcome["baselines"].items()]
    table("model", *shown, rows=rows, numbers=shown)
    decided = "Promoted" if outcome["promoted"] else "Not promoted"
    console.print(f"{decided}: {' '.join(outcome['reasons'])}\n", soft_wrap=True, highlight=False)


def _figure(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.4f}" if name in found else "–"


def tune(
    model: Annotated[str, typer.Argument(help="recommendation, churn, anomaly or popularity.")],
    trials: Annotated[int, typer.Option(min=1, help="How many in all, those of earlier sittings included.")] = 40,
    cuts: Annotated[int, typer.Option(min=1, help="Past moments each trial is judged at.")] = 3,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="As of a past moment (UTC); [dim]this week's Monday[/].", show_default=False),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the winners into conf/training.yaml.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Search for better training settings, on earlier days than any reported figure is of.

    Interrupted and run again it goes on where it was. Every trial is a run in MLflow.
    """
    from aap.features.retrieval import open_retrieval
    from aap.modeling.catalog import model_class
    from aap.modeling.registry.registry import open_registry
    from aap.modeling.train_and_promote import training_settings
    from aap.modeling.tuning import tune as search
    from aap.modeling.yaml_update import write_settings

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
    from aap.modeling.catalog import model_class, model_classes

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

        chosen = [model_class(name).name for name in model or model_classes()]
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
    from aap.modeling.catalog import model_class, model_classes

    chosen = [model_class(name).name for name in models or model_classes()]
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
