"""`aap retention`: what no purpose may use any more is deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import console, counted, print_json, table
from settings.config import load_settings

__all__ = ["retention"]


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Delete events and records that are older than their purpose keeps them, or that no grant covers any more."""
    from privacy.holdings import open_holdings
    from privacy.retention import retain

    settings = load_settings()
    with counted("Looking") as report:
        done = retain(open_holdings(settings), now=settings.now(), dry_run=dry_run, progress=report)
    if as_json:
        print_json({"dry_run": dry_run, "deleted": dict(done.deleted), "kept": dict(done.kept),
                    "ids_forgotten": done.ids_forgotten})  # fmt: skip
        return
    rows = [(name, f"{done.deleted[name]:,}", f"{done.kept[name]:,}") for name in sorted({*done.deleted, *done.kept})]
    table(
        "what",
        "to be deleted" if dry_run else "deleted",
        "kept",
        rows=rows,
        numbers=["deleted", "to be deleted", "kept"],
    )
    if not dry_run:
        console.print(f"{done.ids_forgotten:,} ids forgotten. Run `aap features build` for the features to follow.")
