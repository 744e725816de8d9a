"""`aap models`: the versions there are, which one answers, what each was made of, and how good the models are."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aap.cli.model_rendering import (
    ended_of,
    headline,
    lineage_of,
    print_alerts,
    print_live_quality,
    print_report,
    print_shadow,
)
from aap.cli.terminal import console, counted, err, table
from aap.config import load_settings
from aap.infra.paths import Layout
from aap.project.loader import project_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure

    from aap.config import Settings
    from aap.modeling.registry.provenance import Provenance
    from aap.modeling.registry.registry import ModelVersion

__all__ = ["app"]

app = typer.Typer(help="List model versions; promote or roll back.", no_args_is_help=True)

_Model = Annotated[str, typer.Argument(help="A model's name.")]
_Version = Annotated[int, typer.Argument(help="A version's number.", min=1)]


@app.command("list")
def list_models() -> None:
    """List every version of every model, newest first."""
    from aap.modeling.catalog import model_classes
    from aap.modeling.registry.provenance import open_provenance

    settings = load_settings()
    provenance, now = open_provenance(settings), settings.now()
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases) or None,
            v.tags.get("as_of", "")[:16],
            v.tags.get("rows"),
            headline(v.tags, provenance.registry.metrics(v)),
            ended_of(v, provenance, now=now),
        )
        for name in model_classes()
        for v in provenance.registry.versions(name)
    ]
    if rows:
        headings = ("model", "version", "alias", "as of", "rows", "measured", "consent ended")
        table(*headings, rows=rows, numbers=["version", "rows", "consent ended"])
    else:
        console.print("No model is trained yet; run `aap train all` or `aap retrain`.")


@app.command()
def why(
    model: _Model,
    version: _Version,
) -> None:
    """Say why a version was promoted or not, whether the service refused it, and what it was made of."""
    from aap.modeling.registry.provenance import open_provenance

    settings = load_settings()
    provenance = open_provenance(settings)
    found = provenance.registry.version(model, version)
    lines = json.loads(found.tags.get("promotion_reasons", "[]")) or ["No decision is recorded for it."]
    if found.refusal:
        lines.append(f"The service refuses to answer with it: {found.refusal}.")
    lines += lineage_of(found, provenance, now=settings.now())
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


@app.command("trained-on")
def trained_on(user: Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]) -> None:
    """Say which versions were trained on a person. One that doesn't say on whom counts as trained on them."""
    from aap.modeling.catalog import model_classes
    from aap.modeling.registry.registry import open_registry
    from aap.security.audit_log import note_once
    from aap.security.pseudonyms import load_pseudonyms

    settings = load_settings()
    layout = Layout(settings.home)
    registry, key = open_registry(settings), load_pseudonyms(layout).user_key(user)
    note_once(
        layout.audit, "read which versions learned from a person", by="command line", at=settings.now(), about=[key]
    )
    rows = [
        (v.name, v.version, ", ".join(v.aliases) or None, "to be replaced" if v.tainted else None)
        for name in model_classes()
        for v in registry.trained_on(name, key)
    ]
    if rows:
        table("model", "version", "alias", "marked", rows=rows, numbers=["version"])
    else:
        console.print("No version was trained on this person.")


@app.command()
def compare(
    model: _Model,
    version: _Version,
    other: Annotated[int | None, typer.Argument(help="Another version; the champion by default.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Put two versions side by side: what they were made of, and every metric both have."""
    from aap.modeling.errors import NoChampion
    from aap.modeling.registry.registry import open_registry

    registry = open_registry(load_settings())
    first, second = registry.version(model, version), registry.version(model, other) if other else None
    second = second or registry.champion(model)
    if second is None:
        raise NoChampion(f"{model} has no champion to compare with; name a second version.")
    ours, theirs = registry.metrics(first), registry.metrics(second)
    metrics = {k: (ours[k], theirs[k]) for k in sorted(set(ours) & set(theirs)) if "/" not in k}
    made = {k: (first.tags.get(k), second.tags.get(k)) for k in ("as_of", "rows", "seed", "git_revision")}
    if as_json:
        pair = [first.version, second.version]
        typer.echo(json.dumps({"model": model, "versions": pair, "made": made, "metrics": metrics}))
        return
    rows: list[tuple[str | None, ...]] = [(name, *pair, None) for name, pair in made.items()]
    rows += [(name, f"{a:.4f}", f"{b:.4f}", f"{a - b:+.4f}") for name, (a, b) in metrics.items()]
    headings = ("", f"version {first.version}", f"version {second.version}", "difference")
    table(*headings, rows=rows, numbers=headings[1:])


@app.command()
def promote(model: _Model, version: _Version) -> None:
    """Make a version the champion, whatever the gate said; the service takes it up within seconds."""
    from aap.modeling.registry.provenance import open_provenance

    settings = load_settings()
    provenance = open_provenance(settings)
    wanted = provenance.registry.version(model, version)
    _must_answer(provenance, wanted)
    ended = str(provenance.ended(wanted, now=settings.now()))
    found = provenance.registry.promote(model, version, reasons=("Promoted by hand.", ended))
    console.print(f"{found.name} version {found.version} is the champion.")


@app.command()
def challenge(
    model: _Model,
    version: Annotated[int | None, typer.Argument(help="A version's number; none ends the challenge.", min=1)] = None,
) -> None:
    """Give a version a copy of the traffic (a share, AAP_SHADOW); its answers are dropped, `shadow` compares them."""
    from aap.modeling.registry.provenance import open_provenance

    provenance = open_provenance(load_settings())
    if version is not None:
        provenance.check(provenance.registry.version(model, version))
    provenance.registry.challenge(model, version)
    said = f"{model} has no challenger." if version is None else f"{model} version {version} is the challenger."
    console.print(said)


@app.command()
def shadow(as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """Say how challengers differ from champions on copies of the traffic, and how long both take."""
    from dataclasses import asdict

    from aap.serving.rollout.shadow import read_shadow

    found = read_shadow(Layout(load_settings().home).shadow)
    print_shadow(found)
    if as_json:
        typer.echo(json.dumps({"challengers": [asdict(one) for one in found]}))


@app.command()
def rollback(model: _Model) -> None:
    """Go back to the champion before this one; the service takes it up within seconds."""
    from aap.modeling.registry.provenance import open_provenance

    provenance = open_provenance(load_settings())
    before = provenance.previous(model)
    if before is not None:
        _must_answer(provenance, before)
    found = provenance.registry.rollback(model)
    console.print(f"{found.name} version {found.version} is the champion again.")


@app.command()
def alerts(
    most: Annotated[int, typer.Option(min=1, help="How many, the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array, on the last line.")] = False,
) -> None:
    """List what `aap live` found unusual, newest first; people by their pseudonyms."""
    from aap.jobs.streaming.alerts import read

    found = read(Layout(load_settings().home).alerts, most=most)
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    print_alerts(found)


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
    from aap.features.retrieval import open_retrieval
    from aap.modeling.catalog import model_class
    from aap.modeling.reporting.model_report import REPORTED, report as judge, with_price
    from aap.modeling.train_and_promote import training_settings

    chosen = [model_class(name).name for name in model or REPORTED]
    with counted("Measuring") as bar:
        steps = iter(range(1, 1_000))

        def tell(stage: str) -> None:
            bar(next(steps))
            err.print(f"[dim]{stage}[/]", highlight=False)

        with _home(home, tell) as settings:
            door, training = open_retrieval(settings), training_settings(settings)
            at = cut.replace(tzinfo=UTC) if cut else project_module("pipelines.demo.full_consent").CUT
            found = judge(door, settings=training, cut=at, models=chosen, weeks=weeks, progress=tell)
            if price:
                yes = None if home else project_module("pipelines.demo.full_consent").who_said_yes(settings, at=at)
                drawn = with_price(found, door, settings=training, cut=at, consented=yes, progress=tell)
                _save(drawn, plots)
    for name, told in found.items():
        print_report(name, told)
    if as_json:
        typer.echo(json.dumps(found))


def _home(home: Path | None, tell: Callable[[str], None]) -> AbstractContextManager[Settings]:
    """The settings of `home`; without one, of a temporary home in which everybody agrees."""
    if home is not None:
        return nullcontext(load_settings(home))
    agreed: AbstractContextManager[Settings] = project_module("pipelines.demo.full_consent").everyone_agrees(tell)
    return agreed


def _save(drawn: Mapping[str, Figure], folder: Path | None) -> None:
    """Write each plot as PNG into `folder`, if one is named."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / f"price-of-consent-{name}.png")


@app.command("live-quality")
def live_quality(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Say how answers did, now that it is known what people went on to buy."""
    from dataclasses import asdict

    from aap.features.retrieval import open_retrieval
    from aap.serving.analysis.online_evaluation import live_quality as measure

    settings = load_settings()
    found = measure(open_retrieval(settings), records=Layout(settings.home).predictions, now=settings.now())
    if as_json:
        typer.echo(json.dumps({"live_quality": [asdict(line) for line in found]}))
        return
    print_live_quality(found)


def _must_answer(provenance: Provenance, version: ModelVersion) -> None:
    """Do what the service will do with a champion, before it becomes one. Raises what is wrong with the version."""
    from aap.serving.model_cache import smoke_test

    smoke_test(version.name, provenance.load(version))
