"""`aap models`: the versions there are, and which one answers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.console import console, table
from settings.config import load_settings
from storage.layout import Layout

__all__ = ["app"]

app = typer.Typer(help="List model versions; promote or roll back.", no_args_is_help=True)

_Model = Annotated[str, typer.Argument(help="A model's name.")]
_Version = Annotated[int, typer.Argument(help="A version's number.", min=1)]


@app.command("list")
def list_models() -> None:
    """List every version of every model, newest first."""
    from models.registry import open_registry
    from models.roster import MODELS

    registry = open_registry(load_settings())
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases) or None,
            v.tags.get("as_of", "")[:16],
            v.tags.get("rows"),
            _headline(v.tags, v.metrics),
        )
        for name in MODELS
        for v in registry.versions(name)
    ]
    if rows:
        table("model", "version", "alias", "as of", "rows", "measured", rows=rows, numbers=["version", "rows"])
    else:
        console.print("No model is trained yet; run `aap train all` or `aap retrain`.")


@app.command()
def why(model: _Model, version: _Version) -> None:
    """Say why a version was promoted or not."""
    from models.registry import open_registry

    found = open_registry(load_settings()).version(model, version)
    reasons = json.loads(found.tags.get("promotion_reasons", "[]"))
    console.print("\n".join(reasons) or "No decision is recorded for it.", soft_wrap=True, highlight=False)


@app.command()
def promote(model: _Model, version: _Version) -> None:
    """Make a version the champion, whatever the gate said; the service takes it up within seconds."""
    from models.registry import open_registry

    found = open_registry(load_settings()).promote(model, version, reasons=("Promoted by hand.",))
    console.print(f"{found.name} version {found.version} is the champion.")


@app.command()
def rollback(model: _Model) -> None:
    """Go back to the champion before this one."""
    from models.registry import open_registry

    found = open_registry(load_settings()).rollback(model)
    console.print(f"{found.name} version {found.version} is the champion again.")


@app.command("trained-on")
def trained_on(user: Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]) -> None:
    """Say which versions were trained on a person. One that doesn't say on whom counts as trained on them."""
    from models.registry import open_registry
    from models.roster import MODELS
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    registry, key = open_registry(settings), load_pseudonyms(Layout(settings.home)).user_key(user)
    rows = [
        (v.name, v.version, ", ".join(v.aliases) or None, "to be replaced" if v.tainted else None)
        for name in MODELS
        for v in registry.trained_on(name, key)
    ]
    if rows:
        table("model", "version", "alias", "marked", rows=rows, numbers=["version"])
    else:
        console.print("No version was trained on this person.")


def _headline(tags: dict[str, str], metrics: dict[str, float]) -> str | None:
    name = tags.get("headline", "")
    return f"{name} {metrics[name]:.4f}" if name in metrics else None
