"""`aap features`: build, publish and look at features."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from aap.cli.terminal import console, counted, table
from aap.config import load_settings

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
    from aap.jobs.publish_features import build_features

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

    from aap.consent.service import open_ledger
    from aap.events.archive import Archive
    from aap.features.quality import engine_parity as verification
    from aap.infra.object_store import archive_folder

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
def consistency(
    most: Annotated[int, typer.Option("--limit", min=1, help="Vectors recomputed of each service.")] = 2_000,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Recompute a sample of what was served and compare; exits 1 on one mismatch."""
    from aap.jobs.reports.online_offline_skew import check_consistency

    settings = load_settings()
    with counted("Recomputing"):
        report = check_consistency(settings, now=settings.now(), most=most)
    found = report.found
    rows = [
        (f.service, f.feature, f"{f.served:,}", f"{f.mismatch_share:.2%}", f"{f.missing_share:.2%}",
         f"{f.outdated_share:.2%}", f"{f.relative_error:.2g}")
        for f in found.features
    ]  # fmt: skip
    shown = ("served", "mismatched", "missing", "outdated", "relative error")
    table("service", "feature", *shown, rows=rows, numbers=shown)
    for s in found.staleness:
        console.print(f"{s.service}: what was known was {s.median:.2f} days old (median; longest {s.longest:.2f}).")
    for line in found.examples:
        console.print(line)
    console.print(f"{found.checked:,} served values recomputed: {found.mismatches:,} mismatched.")
    console.print(f"Page: {report.page}", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(report.figures()))
    if found.mismatches:
        raise typer.Exit(1)


@app.command()
def materialize() -> None:
    """Bring the features online, as of now."""
    from aap.jobs.publish_features import bring_online

    settings = load_settings()
    as_of = settings.now()
    bring_online(settings, as_of=as_of)
    console.print(f"Online as of {as_of:%Y-%m-%d %H:%M} UTC.")


@app.command("list")
def list_features(
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """List every feature: what it is, for which purposes, and how it is built."""
    from aap.cli.feature_card import listed

    settings = load_settings()
    rows = listed(settings, now=settings.now())
    table(
        "feature", "of", "unit", "purposes", "read by", "missing", "what",
        rows=[
            (r.name, r.of, r.unit, ", ".join(r.purposes), ", ".join(r.read_by) or None, r.missing_text, r.description)
            for r in rows
        ],
        numbers=["missing"],
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"features": [asdict(r) for r in rows]}))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A feature's name; `aap features list` shows them.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Show one feature: its definition, from event to model, how fresh it is and how its values lie."""
    from aap.cli.feature_card import print_card
    from aap.jobs.reports.feature_card import card

    settings = load_settings()
    now = settings.now()
    found = card(settings, name, now=now)
    print_card(found, now=now)
    if as_json:
        typer.echo(json.dumps(asdict(found), default=str))
