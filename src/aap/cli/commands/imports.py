"""`aap import` and `aap rejected`: data in, and the rows that didn't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aap.cli.terminal import console, counted, table
from aap.config import load_settings
from aap.events.importing.importer import ImportReport
from aap.infra.paths import Layout

__all__ = ["import_", "print_report", "rejected"]

_MALFORMED_SHOWN = 5

rejected = typer.Typer(help="List or replay the rows that didn't fit.", no_args_is_help=True)


def import_(
    source: Annotated[str, typer.Argument(help="A .csv or .parquet file, or a database URL like sqlite:///shop.db.")],
    mapping: Annotated[Path, typer.Option(help="YAML file that says which column is what; see docs/import.md.")],
    table_name: Annotated[
        str | None, typer.Option("--table", help="Table to read, when the source is a database.")
    ] = None,
) -> None:
    """Import a CSV, Parquet file or SQL table by a mapping. Importing the same rows again adds nothing."""
    from aap.jobs.ingest import import_source

    settings = load_settings()
    with counted("Importing") as report_progress:
        report = import_source(
            settings, source, mapping=mapping, table=table_name, now=settings.now(), progress=report_progress
        )
    print_report(report)


def print_report(report: ImportReport) -> None:
    """What became of the rows, as a short table."""
    rows: list[tuple[str, str, int]] = []
    rows += [("accepted", event, count) for event, count in sorted(report.accepted.items())]
    rows += [("duplicate", "known already", report.duplicates)] if report.duplicates else []
    rows += [("refused", reason, count) for reason, count in sorted(report.refused.items())]
    rows += [("rejected", reason, count) for reason, count in sorted(report.rejected.items())]
    rows += [("recorded", "consent choices", report.choices)] if report.choices else []
    rows += [("catalogued", "new items", report.items)] if report.items else []
    rate = report.rows / report.seconds if report.seconds else 0.0
    console.print(
        f"{report.rows:,} rows of {report.name} in {report.seconds:.1f} s ({rate:,.0f} rows/s)", soft_wrap=True
    )
    table("rows", "what", "count", rows=[(a, b, f"{c:,}") for a, b, c in rows], numbers=["count"])
    for line, problem in report.malformed[:_MALFORMED_SHOWN]:
        console.print(f"Line {line} is not a row: {problem}.")
    if len(report.malformed) > _MALFORMED_SHOWN:
        console.print(f"… and {len(report.malformed) - _MALFORMED_SHOWN:,} more lines.")


@rejected.command("list")
def list_rejected(
    limit: Annotated[int, typer.Option(help="Rows to show.", min=1)] = 20,
) -> None:
    """Show what was rejected and why. People are named by user key alone."""
    from aap.events.dead_letter import RejectedLog

    log = RejectedLog(Layout(load_settings().home).rejected)
    counts = log.counts()
    if not counts:
        console.print("Nothing is rejected.")
        return
    rows = [(Path(door).name, event, reason, f"{count:,}") for (door, event, reason), count in counts.items()]
    table("came by", "event", "reason", "rows", rows=rows, numbers=["rows"])
    shown = log.list(limit=limit)
    table("no.", "reason", "row", rows=[(e.number, e.reason, e.payload) for e in shown])


@rejected.command()
def replay() -> None:
    """Try the rejected rows again, after a mapping was put right; what fits now is taken in."""
    from aap.jobs.ingest import replay_rejected

    settings = load_settings()
    outcome = replay_rejected(settings, now=settings.now())
    console.print(f"{outcome.accepted:,} of {outcome.tried:,} rejected rows fit now; {outcome.left:,} are left.")
