"""`aap erase`: everything held of a person is deleted; a signed certificate says what was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.console import console, counted, print_json, table
from security.audit import note_once
from settings.config import load_settings
from storage.layout import Layout

__all__ = ["erase"]


def erase(
    user: Annotated[str, typer.Argument(help="The person's id, as your systems know it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: it can't be undone.")] = False,
    into: Annotated[Path | None, typer.Option(help="File to write the certificate to as well.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate.")] = False,
) -> None:
    """Erase a person from every store and certify it.

    Item features are computed anew; model versions they taught are marked, and the next retrain replaces them.
    """
    from privacy.erase import erase as run
    from privacy.holdings import open_holdings
    from security.pseudonyms import load_pseudonyms
    from storage.files import write_atomically

    if not user.strip():
        raise typer.BadParameter("The person's id is empty.")
    if not yes and not typer.confirm("Everything held of this person is deleted and can't be brought back. Go on?"):
        raise typer.Exit(1)
    settings = load_settings()
    key = load_pseudonyms(Layout(settings.home)).user_key(user.strip())
    with counted("Erasing") as report:
        certificate = run(open_holdings(settings), key, now=settings.now(), progress=report)
    note_once(Layout(settings.home).audit, "erase a person", by="command line", at=settings.now())
    if into is not None:
        write_atomically(into, json.dumps(certificate, indent=1).encode(), private=True)
    if as_json:
        print_json(certificate)
        return
    rows = [(p["place"], p["method"], p["before"], p["after"]) for p in certificate["places"]]
    table("place", "how", "before", "after", rows=rows, numbers=["before", "after"])
    for model in certificate["models"]:
        console.print(f"{model['model']} version {model['version']} was trained on them: the next retrain replaces it.")
    console.print(f"The certificate is signed with the key {certificate['key_id']} and kept below "
                  f"{Layout(settings.home).certificates}.", soft_wrap=True)  # fmt: skip
