"""The commands of `aap bench`: measure the platform beside its peers, in the same run, in a home of their own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aap.cli.terminal import console, counted, err, table
from aap.config import load_settings
from benchmarks.support.report_keys import check_keys

__all__ = ["app"]

app = typer.Typer(help="Measure the platform beside its peers.", no_args_is_help=True)

People = Annotated[int, typer.Option(min=1_000, help="People in the made-up crowd.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")]


@app.command()
def online(people: People = 100_000, as_json: Json = False) -> None:
    """Reading fifty features online: ours, Feast's Redis store, and a bare MGET."""
    from benchmarks.online_read import run

    report = run(people=people)
    if as_json:
        _print_json("online", report.to_dict())
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
    from benchmarks.consent_check import run

    report = run(people=people)
    if as_json:
        _print_json("consent", report.to_dict())
        return
    rows = [(size, line.with_p50_ms, line.without_p50_ms, line.added_percent) for size, line in report.rows.items()]
    headings = ("people", "with p50 ms", "without p50 ms", "added %")
    table(*headings, rows=rows, numbers=headings)
    console.print(report.machine, highlight=False)


@app.command()
def anomaly(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet table.", exists=True, dir_okay=False)],
    label: Annotated[str, typer.Option(help="The column that is 1 for an anomaly, else 0.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Finding the labelled rows of a table: the isolation forest beside the median-absolute-deviation rule."""
    from benchmarks.anomaly import run

    with counted("Scoring") as told:
        told(1)
        found = run(file, label=label, seed=seed)
    if as_json:
        _print_json("anomaly", found.to_dict())
        return
    rows = [(name, of["auc"], of["ap"]) for name, of in (("forest", found.forest), ("MAD rule", found.mad_rule))]
    table("way", "ROC AUC", "average precision", rows=rows, numbers=["ROC AUC", "average precision"])
    gain, low, high = found.gain_auc
    about = f"{found.rows:,} rows, {found.marked:,} marked, {len(found.features)} features"
    console.print(f"Gain in ROC AUC {gain:+.4f} [{low:+.4f}, {high:+.4f}]; {about}.", highlight=False)
    console.print(found.machine, highlight=False)


@app.command()
def models(
    home: Annotated[
        Path | None,
        typer.Option(help="Fit on this home's data; [dim]else on the demo's shop, everybody agreeing[/].",
                     show_default=False, file_okay=False, exists=True),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Fitting the four models on all data, and answering one person."""
    from contextlib import nullcontext

    from aap.features.retrieval import open_retrieval
    from aap.modeling.train_and_promote import training_settings
    from benchmarks.models import run
    from pipelines.demo.full_consent import CUT, everyone_agrees

    def tell(stage: str) -> None:
        err.print(f"[dim]{stage}[/]", highlight=False)

    with everyone_agrees(tell) if home is None else nullcontext(load_settings(home)) as settings:
        costs = run(open_retrieval(settings), settings=training_settings(settings), cut=CUT, progress=tell)
    found = costs.to_dict()
    if as_json:
        _print_json("models", found)
        return
    rows = [(what, name, value) for what, of in found.items() if isinstance(of, dict) for name, value in of.items()]
    table("what", "of", "figure", rows=[*rows, ("peak", "GB", costs.peak_gb)], numbers=["figure"])
    console.print(costs.machine, highlight=False)


@app.command()
def materialize(people: People = 100_000, as_json: Json = False) -> None:
    """Bringing a built view online: ours beside Feast's, in user-view rows a second."""
    from benchmarks.materialize import run

    report = run(people=people)
    if as_json:
        _print_json("materialize", report.to_dict())
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
def live(
    people: People = 100_000,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the steady run.")] = 10.0,
    events: Annotated[int, typer.Option(min=10_000, help="Events of the burst.")] = 1_000_000,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Worker processes of the burst.")] = 2,
    purpose: Annotated[
        list[str] | None,
        typer.Option(help="What everybody has granted; [dim]marketing.retention[/].", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Events appended to the log until their effect is readable online, and whether any is lost or counted twice."""
    from aap.consent.purposes import parse_purpose
    from benchmarks.streaming import PURPOSES, run

    chosen = tuple(parse_purpose(name) for name in purpose) if purpose else PURPOSES
    with err.status("Steady, burst, kill…"):
        report = run(people=people, steady_s=seconds, burst=events, workers=workers, purposes=chosen)
    found = report.to_dict()
    if as_json:
        _print_json("live", found)
        return
    machine = found.pop("machine")
    cpu = {f"CPU of {name}, µs an event": us for name, us in found["burst"].pop("cpu_us").items()}
    found["burst"] |= cpu
    rows = [(name, what, f"{figure:,}") for name, of in found.items() for what, figure in of.items()]
    table("run", "what", "figure", rows=rows, numbers=["figure"])
    console.print(machine, highlight=False)


@app.command()
def offline(
    labels: Annotated[int, typer.Option(min=1_000, help="Label rows.")] = 100_000,
    rows: Annotated[int, typer.Option(min=10_000, help="Change points they are joined with.")] = 1_000_000,
    limit: Annotated[float, typer.Option(help="Seconds each of Feast's stores may take at each depth.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Joining label rows with the values of their moment: ours, a bare ASOF join, Feast's duckdb and dask stores."""
    from benchmarks.point_in_time_join import run

    with counted("Depths measured") as told:
        report = run(now=load_settings().now(), labels=labels, rows=rows, limit_s=limit, progress=told)
    if as_json:
        _print_json("offline", report.to_dict())
        return
    headings = (
        "rows a person", "ours s", "training frame s", "bare s", "Feast duckdb s", "Feast dask s", "× bare", "× bare, CPU",
        "peak MB",
    )  # fmt: skip
    lines = [
        (
            depth, d.ours_s, d.training_frame_s, d.bare_s, d.feast_duckdb_s or d.unfinished["duckdb"],
            d.feast_dask_s or d.unfinished["dask"], d.vs_bare, d.vs_bare_cpu, d.ours_peak_mb,
        )
        for depth, d in report.depth.items()
    ]  # fmt: skip
    table(*headings, rows=lines, numbers=headings)
    console.print(report.machine, highlight=False)


@app.command()
def build(
    copies: Annotated[int, typer.Option(min=2, help="How many times everybody is there in the larger archive.")] = 10,
    one_in: Annotated[int, typer.Option(min=1, help="Only one person in so many: a quick look.")] = 1,
    as_json: Json = False,
) -> None:
    """Building the features of a year of real purchases: DuckDB, Spark, and ten times the people."""
    from benchmarks.feature_build import run

    with counted("Steps done") as told:
        report = run(copies=copies, one_in=one_in, progress=told)
    if as_json:
        _print_json("build", report.to_dict())
        return
    headings = ("what", "events", "change points", "seconds", "CPU s", "events/s", "peak MB")
    lines = {"duckdb": report.duckdb, "spark": report.spark, f"duckdb, people × {copies}": report.duckdb_x10}
    shown = [
        (what, f"{b.events:,}", f"{b.change_points:,}", b.seconds, b.cpu_s, f"{b.events_per_s:,}", f"{b.peak_mb:,}")
        for what, b in lines.items()
        if b is not None
    ]
    table(*headings, rows=shown, numbers=headings[1:])
    if report.spark_skipped:
        console.print(report.spark_skipped)
    console.print(f"{report.growth} × the CPU an event at {copies} × the events. {report.machine}", highlight=False)


@app.command()
def withdraw(
    withdrawals: Annotated[int, typer.Option(min=1, max=300, help="People who withdraw, one after another.")] = 200,
    as_json: Json = False,
) -> None:
    """Withdrawing under load: how long until it is acknowledged, and whether anything uses the data afterwards."""
    from benchmarks.consent_withdrawal import run

    with err.status("Training a shop, then withdrawing under load…"):
        report = run(withdrawals=withdrawals)
    found = report.to_dict()
    if as_json:
        _print_json("withdraw", found)
        return
    machine = found.pop("machine")
    table("what", "figure", rows=found.items(), numbers=["figure"])
    console.print(machine, highlight=False)


@app.command()
def swap(
    swaps: Annotated[int, typer.Option(min=1, help="Promotions.")] = 20,
    requests: Annotated[int, typer.Option(min=100, help="Calls answered meanwhile, at least.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Swapping models under load: which calls failed, and which were answered by a model that wasn't whole."""
    from benchmarks.model_swap import run

    report = run(swaps=swaps, requests=requests)
    if as_json:
        _print_json("swap", report.to_dict())
        return
    table("what", "count", rows=report.to_dict().items(), numbers=["count"])


@app.command()
def serve(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every contender.")] = 5,
    requests: Annotated[int, typer.Option(min=20, help="Calls a turn on one connection.")] = 400,
    soak: Annotated[int, typer.Option(min=0, help="Calls more at half of the top load, for a minute at least.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer, of ours and of MLflow's.")] = 1,
    as_json: Json = False,
) -> None:
    """Answering over HTTP: ours, a no-op in the same stack, a bare one, and MLflow's own scoring server."""
    from benchmarks.serving import run

    report = run(rounds=rounds, requests=requests, soak=soak, workers=workers)
    if as_json:
        _print_json("serve", report.to_dict())
        return
    measured = ("p50_ms", "p99_ms", "rps", "cpu_ms", "failed")
    rows = [
        (name, on[1:], *(line[m] for m in measured))
        for name, lines in report.contenders.items()
        for on, line in lines.items()
    ]
    table("what", "connections", *measured, rows=rows, numbers=["connections", *measured])
    if report.soak:
        lasting = {name: asdict(one) for name, one in report.soak.items()}
        columns = list(lasting["churn"])
        table(
            "at half of the top load",
            *columns,
            rows=[(n, *one.values()) for n, one in lasting.items()],
            numbers=columns,
        )
    console.print(report.machine, highlight=False)


def _print_json(benchmark: str, report: dict[str, Any]) -> None:
    """Print it, and fail after that if its keys aren't those declared: what was measured for minutes is not lost."""
    typer.echo(json.dumps(report))
    check_keys(benchmark, report)
