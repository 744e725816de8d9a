"""`aap models`: the versions there are, and which one answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import console, table
from settings.config import load_settings
from storage.layout import Layout

if TYPE_CHECKING:
    from models.registry import ModelVersion, Registry

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
    """Say why a version was promoted or not, and whether the service refused it."""
    from models.registry import open_registry

    found = open_registry(load_settings()).version(model, version)
    lines = json.loads(found.tags.get("promotion_reasons", "[]")) or ["No decision is recorded for it."]
    if found.refusal:
        lines.append(f"The service refuses to answer with it: {found.refusal}.")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


@app.command()
def compare(
    model: _Model,
    version: _Version,
    other: Annotated[int | None, typer.Argument(help="Another version; the champion by default.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Put two versions side by side: what they were made of, and every metric both have."""
    from models.errors import NoChampion
    from models.registry import open_registry

    registry = open_registry(load_settings())
    first, second = registry.version(model, version), registry.version(model, other) if other else None
    second = second or registry.champion(model)
    if second is None:
        raise NoChampion(f"{model} has no champion to compare with; name a second version.")
    both = sorted(k for k in set(first.metrics) & set(second.metrics) if "/" not in k)
    metrics = {k: (first.metrics[k], second.metrics[k]) for k in both}
    made = {k: (first.tags.get(k), second.tags.get(k)) for k in ("as_of", "rows", "seed", "git_revision")}
    if as_json:
        pair = [first.version, second.version]
        typer.echo(json.dumps({"model": model, "versions": pair, "made": made, "metrics": metrics}))
        return
    rows = [(name, *pair, None) for name, pair in made.items()]
    rows += [(name, f"{a:.4f}", f"{b:.4f}", f"{a - b:+.4f}") for name, (a, b) in metrics.items()]
    headings = ("", f"version {first.version}", f"version {second.version}", "difference")
    table(*headings, rows=rows, numbers=headings[1:])


@app.command()
def promote(model: _Model, version: _Version) -> None:
    """Make a version the champion, whatever the gate said; the service takes it up within seconds."""
    from models.registry import open_registry

    registry = open_registry(load_settings())
    _must_answer(registry, registry.version(model, version))
    found = registry.promote(model, version, reasons=("Promoted by hand.",))
    console.print(f"{found.name} version {found.version} is the champion.")


@app.command()
def rollback(model: _Model) -> None:
    """Go back to the champion before this one; the service takes it up within seconds."""
    from models.registry import open_registry

    registry = open_registry(load_settings())
    before = registry.previous(model)
    if before is not None:
        _must_answer(registry, before)
    found = registry.rollback(model)
    console.print(f"{found.name} version {found.version} is the champion again.")


@app.command("live-quality")
def live_quality(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Say how answers did, now that it is known what people went on to buy."""
    from dataclasses import asdict

    from feature_repo.retrieval import open_retrieval
    from serving.live_quality import live_quality as measure

    settings = load_settings()
    found = measure(open_retrieval(settings), records=Layout(settings.home).predictions, now=settings.now())
    if as_json:
        typer.echo(json.dumps({"live_quality": [asdict(line) for line in found]}))
        return
    if not found:
        console.print("Nobody was answered yet; ask the service, or wait a few seconds for its records.")
        return
    rows = [(q.model, q.version, q.variant, q.answers, q.waiting, _said(q.measured)) for q in found]
    table("model", "version", "variant", "judged", "waiting", "measured", rows=rows, numbers=["judged", "waiting"])


def _said(measured: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in measured.items())


def _must_answer(registry: Registry, version: ModelVersion) -> None:
    """Do what the service will do with a champion, before it becomes one. Raises what is wrong with the version."""
    from serving.models_in_use import smoke_test

    smoke_test(version.name, registry.load(version))


def _headline(tags: dict[str, str], metrics: dict[str, float]) -> str | None:
    name = tags.get("headline", "")
    return f"{name} {metrics[name]:.4f}" if name in metrics else None
