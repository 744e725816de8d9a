"""`aap bench`: measure the platform beside its peers, in the same run, on a server and in a home of their own."""

from __future__ import annotations

import json
from dataclasses import asdict
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


@app.command()
def swap(
    swaps: Annotated[int, typer.Option(min=1, help="Promotions.")] = 20,
    requests: Annotated[int, typer.Option(min=100, help="Calls answered meanwhile, at least.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Swapping models under load: which calls failed, and which were answered by a model that wasn't whole."""
    from benchmarks.swap import run

    report = run(swaps=swaps, requests=requests)
    if as_json:
        _print_json(report.to_dict())
        return
    table("what", "count", rows=report.to_dict().items(), numbers=["count"])


@app.command()
def serve(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every contender.")] = 5,
    requests: Annotated[int, typer.Option(min=20, help="Calls a turn on one connection.")] = 400,
    soak: Annotated[int, typer.Option(min=0, help="Calls more, at half of the top load.")] = 0,
    as_json: Json = False,
) -> None:
    """Answering over HTTP: ours, a no-op in the same stack, a bare one, and MLflow's own scoring server."""
    from benchmarks.serve import run

    report = run(rounds=rounds, requests=requests, soak=soak)
    if as_json:
        _print_json(report.to_dict())
        return
    measured = ("p50_ms", "p99_ms", "rps", "cpu_ms", "failed")
    rows = [
        (name, on[1:], *(line[m] for m in measured))
        for name, lines in report.contenders.items()
        for on, line in lines.items()
    ]
    table("what", "connections", *measured, rows=rows, numbers=["connections", *measured])
    if report.soak is not None:
        table("at half of the top load", "", rows=asdict(report.soak).items(), numbers=[""])
    console.print(report.machine, highlight=False)


def _print_json(report: dict[str, Any]) -> None:
    typer.echo(json.dumps(report))
