"""`aap audit`: who did, read or tried what at the doors, and whether that log was altered."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from aap.cli.terminal import console, table
from aap.config import load_settings
from aap.infra.paths import Layout
from aap.security.audit_log import read_audit, verify_audit

__all__ = ["app"]

app = typer.Typer(help="Show the audit log, and check that nothing in it was altered.", no_args_is_help=True)


@app.command("list")
def show(days: Annotated[int, typer.Option(help="How many days to show.", min=1)] = 1) -> None:
    """Show who did or tried what: people read, choices recorded, exports, erasures, keys made, calls refused."""
    entries = read_audit(Layout(load_settings().home).audit, days=days)
    rows = [(e["time"][:19], e["action"], e["by"], e["outcome"], e["count"]) for e in entries]
    table("time (UTC)", "what", "key", "outcome", "times", rows=rows, numbers=["times"])


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on the last line.")] = False,
) -> None:
    """Follow the chain of hashes; exits 1 and names the place where an entry was altered, removed, added or moved."""
    found = verify_audit(Layout(load_settings().home).audit)
    for problem in found.problems:
        console.print(problem, highlight=False)
    if as_json:
        typer.echo(json.dumps({"entries": found.entries, "newest": found.newest, "problems": found.problems}))
    else:
        console.print(
            f"{found.entries:,} entries, {len(found.problems)} problems. Keep the newest hash elsewhere, and a later log "
            f"must contain it: {found.newest}",
            highlight=False,
        )
    if found.problems:
        raise typer.Exit(1)
