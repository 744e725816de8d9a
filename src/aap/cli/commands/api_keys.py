"""`aap keys`: make, list and revoke API keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from aap.cli.terminal import table
from aap.config import Settings, load_settings
from aap.infra.paths import Layout
from aap.security.api_keys import ApiKeys, KeyInfo, Scope
from aap.security.audit_log import note_once

__all__ = ["app"]

app = typer.Typer(help="Create, list and revoke the API keys of applications.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use the key, for example shop-frontend.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may be used for (predict by default); may be given again.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; it never does by default.", min=1)] = None,
) -> None:
    """Make a key and print it: the only time it can be seen."""
    settings = load_settings()
    now = settings.now()
    expires_at = now + timedelta(days=days) if days else None
    keys = ApiKeys(Layout(settings.home).api_keys)
    typer.echo(keys.create(name, scopes=scope or [Scope.PREDICT], now=now, expires_at=expires_at))
    _note(settings, f"make the key {name.strip()!r}")
    typer.echo("Keep it now: only its hash is stored, so it can't be shown again.", err=True)


@app.command("list")
def list_keys() -> None:
    """Show every key: name, id, scopes, and whether it works."""
    settings = load_settings()
    now = settings.now()
    rows = [
        (key.name, key.id, " ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d}", _state(key, now))
        for key in ApiKeys(Layout(settings.home).api_keys).list()
    ]
    table("name", "id", "scopes", "made", "state", rows=rows)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name, or the beginning of its id.")]) -> None:
    """Stop a key from working, from the next call on."""
    settings = load_settings()
    gone = ApiKeys(Layout(settings.home).api_keys).revoke(name, now=settings.now())
    _note(settings, f"revoke the key {gone.name!r} ({gone.id})")
    typer.echo(f"The key {gone.name!r} ({gone.id}) no longer works.")


def _note(settings: Settings, action: str) -> None:
    note_once(Layout(settings.home).audit, action, by="command line", at=settings.now())


def _state(key: KeyInfo, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if not key.valid(now):
        return "expired"
    return f"works until {key.expires_at:%Y-%m-%d}" if key.expires_at else "works"
