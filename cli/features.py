"""`aap features`: build, publish and look at features."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.console import console, counted, table
from settings.config import load_settings

__all__ = ["app"]

app = typer.Typer(help="Build, publish and look at features.", no_args_is_help=True)


@app.command()
def build(
    engine: Annotated[
        str, typer.Option(help="duckdb or spark; [dim]AAP_ENGINE, else duckdb[/].", show_default=False)
    ] = "",
    anew: Annotated[bool, typer.Option("--anew", help="Compute everything, also what did not change.")] = False,
) -> None:
    """Compute the features of whom anything changed for since the last build, as known now, and register them with Feast."""
    from pipelines.publish import build_features

    settings = load_settings()
    with counted("Building features") as report:
        made = build_features(
            settings,
            as_of=settings.now(),
            engine=engine,
            anew=anew,
            progress=lambda _view, done, total: report(done, total),
        )
    rows = [(b.view, f"{b.entities:,}", f"{b.computed:,}", f"{b.rows:,}", f"{b.seconds:.1f}") for b in made]
    headings = ("view", "entities", "computed", "change points", "seconds")
    table(*headings, rows=rows, numbers=headings[1:])
    for why in dict.fromkeys(b.why for b in made if b.why):
        console.print(why)


@app.command()
def verify(
    users: Annotated[int, typer.Option(min=1, help="People drawn for each view.")] = 50,
    moments: Annotated[int, typer.Option(min=1, help="Moments drawn for each of them.")] = 20,
    engine: Annotated[
        list[str] | None, typer.Option(help="Compare these, the first with the others; else all this machine can run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What the draws follow from.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Recompute a sample of values in every engine and compare; exits 1 on one mismatch."""
    import numpy as np

    from consent.choices import open_ledger
    from events.archive import Archive
    from feature_repo import verify as verification
    from storage.folder import archive_folder

    settings = load_settings()
    asked, skipped = verification.engines(settings, asked=engine or ())
    found = verification.verify(
        asked,
        archive=Archive(archive_folder(settings)),
        standing=open_ledger(settings).standing(),
        as_of=settings.now(),
        people=users,
        moments=moments,
        random=np.random.default_rng(seed),
        skipped=skipped,
    )
    rows = [(f.view, f.feature, f"{f.checked:,}", f"{f.mismatches:,}") for f in found.features]
    table("view", "feature", "checked", "mismatched", rows=rows, numbers=["checked", "mismatched"])
    for line in (*found.examples, *(f"Not compared: {name}. {why}" for name, why in skipped.items())):
        console.print(line)
    console.print(f"{found.checked:,} values by {', '.join(found.engines)}: {found.mismatches:,} mismatched.")
    if as_json:
        told = {"checked": found.checked, "mismatches": found.mismatches, "engines": list(found.engines)}
        typer.echo(json.dumps(told))
    if found.mismatches:
        raise typer.Exit(1)


@app.command()
def materialize() -> None:
    """Bring the features online, as of now."""
    from pipelines.publish import bring_online

    settings = load_settings()
    as_of = settings.now()
    bring_online(settings, as_of=as_of)
    console.print(f"Online as of {as_of:%Y-%m-%d %H:%M} UTC.")


@app.command("list")
def list_features() -> None:
    """List every feature: what it is, and for which purposes."""
    from feature_repo.definitions import FEATURES

    rows = [(f.name, f.entity, f.unit, ", ".join(sorted(f.purposes)), f.description) for f in FEATURES]
    table("feature", "of", "unit", "purposes", "what", rows=rows)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A feature's name; `aap features list` shows them.")]) -> None:
    """Show one feature: its definition and who reads it."""
    from feature_repo.definitions import FEATURES
    from feature_repo.errors import UnknownFeature
    from feature_repo.views import services

    found = next((f for f in FEATURES if f.name == name), None)
    if found is None:
        raise UnknownFeature(f"Unknown feature {name!r}; `aap features list` shows the ones there are.")
    readers = [
        s.name for s in services().values() if name in (*s.features, *s.sequences) and s.purpose in found.purposes
    ]
    shown = {slot: getattr(found, slot) for slot in found.__slots__} | {"read by": ", ".join(readers) or "no model"}
    shown["purposes"] = ", ".join(sorted(found.purposes))
    table("", "", rows=[(key, value) for key, value in shown.items() if value not in ("", None)])
