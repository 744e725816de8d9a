"""`aap bench`: measure the platform beside its peers, in the same run, on a server and in a home of their own."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cli.console import console, table

__all__ = ["app"]

app = typer.Typer(help="Measure the platform beside its peers.", no_args_is_help=True)

People = Annotated[int, typer.Option(min=1_000, help="People in the made-up crowd.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")]


@app.command()
def online(people: People = 100_000, as_json: Json = False) -> None:
    """Reading fifty features online: ours, Feast's Redis store, and a bare MGET."""
    from benchmarks.online import run

    report = run(people=people)
    if as_json:
        _print_json(report.to_dict())
        return
    rows = [
        (size, line.ours_p50_ms, line.ours_p99_ms, line.feast_p50_ms, line.bare_p50_ms, line.vs_feast, line.vs_bare)
        for size, line in report.rows.items()
    ]
    headings = ("people", "ours p50 ms", "p99 ms", "Feast p50 ms", "bare p50 ms", "× Feast", "× bare")
    table(*headings, rows=rows, numbers=headings)
    console.print(report.machine, highlight=False)


@app.command()
def consent(people: People = 100_000, as_json: Json = False) -> None:
    """What checking consent adds to an online read of the same rows."""
    from benchmarks.consent import run

    report = run(people=people)
    if as_json:
        _print_json(report.to_dict())
        return
    rows = [(size, line.with_p50_ms, line.without_p50_ms, line.added_percent) for size, line in report.rows.items()]
    headings = ("people", "with p50 ms", "without p50 ms", "added %")
    table(*headings, rows=rows, numbers=headings)
    console.print(report.machine, highlight=False)


@app.command()
def materialize(people: People = 100_000, as_json: Json = False) -> None:
    """Bringing a built view online: ours beside Feast's, in user-view rows a second."""
    from benchmarks.materialize import run

    report = run(people=people)
    if as_json:
        _print_json(report.to_dict())
        return
    rows = [
        ("ours", f"{report.ours_rows_per_s:,}"),
        ("ours, onto rows that are there", f"{report.ours_again_rows_per_s:,}"),
        ("ours, with changes to come", f"{report.with_changes_rows_per_s:,}"),
        (f"Feast, {report.feast_people:,} people", f"{report.feast_rows_per_s:,}"),
    ]
    table("what", "user-view rows/s", rows=rows, numbers=["user-view rows/s"])
    console.print(report.machine, highlight=False)


def _print_json(report: dict[str, Any]) -> None:
    typer.echo(json.dumps(report))
