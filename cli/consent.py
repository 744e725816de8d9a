"""`aap consent`: what people allow."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import console, print_error, table
from settings.config import load_settings
from storage.layout import Layout

__all__ = ["app"]

app = typer.Typer(help="Grant, withdraw and look up consent; verify the ledger.", no_args_is_help=True)

_User = Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]
_PurposeName = Annotated[str, typer.Argument(help="One purpose; `aap consent purposes` lists them.")]


@app.command()
def purposes() -> None:
    """List the purposes there are, what each means and what it rests on."""
    from consent.purposes import Purpose, spec

    rows = [(p.value, spec(p).explanation, spec(p).legal_basis.replace("_", " ")) for p in Purpose]
    table("purpose", "meaning", "basis", rows=rows)


@app.command()
def grant(
    user: _User, purpose: _PurposeName, notice: Annotated[str, typer.Option(help="Notice they read.")] = "1"
) -> None:
    """Record that a person allows one purpose."""
    _record(user, purpose, "given", notice=notice)


@app.command()
def withdraw(user: _User, purpose: _PurposeName) -> None:
    """Record that a person no longer allows one purpose; in force for every reader when this returns."""
    _record(user, purpose, "withdrawn", notice="1")


@app.command()
def show(user: _User) -> None:
    """Show what a person allows now, purpose by purpose, with the reason."""
    from consent.choices import open_desk
    from consent.purposes import Purpose
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    key, desk, now = load_pseudonyms(Layout(settings.home)).user_key(user), open_desk(settings), settings.now()
    decisions = [desk.decision(key, p, now=now) for p in Purpose]
    table("purpose", "allowed", "reason", rows=[(d.purpose, "yes" if d.allowed else "no", d.reason) for d in decisions])


@app.command()
def history(user: _User) -> None:
    """Show everything a person chose, in the order it was recorded."""
    from consent.choices import open_ledger
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    records = open_ledger(settings).history(load_pseudonyms(Layout(settings.home)).user_key(user))
    rows = [
        (
            r.seq,
            r.entry.purpose,
            r.entry.status,
            f"{r.entry.indicated_at:%Y-%m-%d %H:%M}",
            r.entry.said_by,
            r.entry.method,
        )
        for r in records
    ]
    table("no.", "purpose", "status", "indicated", "by", "how", rows=rows, numbers=["no."])


@app.command()
def verify() -> None:
    """Check that no record of the ledger was changed or removed, and print its checkpoint."""
    from consent.choices import open_ledger

    ledger = open_ledger(load_settings())
    altered = ledger.first_altered()
    if altered is not None:
        print_error(
            f"Record {altered} of the consent ledger was changed or is missing; restore the ledger from a backup."
        )
        raise typer.Exit(1)
    checkpoint = ledger.checkpoint()
    console.print(f"{checkpoint.size:,} records, none changed. Merkle root {checkpoint.root}", soft_wrap=True)


def _record(user: str, purpose: str, status: str, *, notice: str) -> None:
    from consent.choices import open_desk
    from consent.policy import Status
    from consent.purposes import parse_purpose
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    named = parse_purpose(purpose)
    now = settings.now()
    position = open_desk(settings).record(
        load_pseudonyms(Layout(settings.home)).user_key(user),
        named,
        Status(status),
        said_by="the person",
        method="command line",
        indicated_at=now,
        received_at=now,
        notice_version=notice,
    )
    console.print(f"{named}: {status}, ledger position {position}.")
