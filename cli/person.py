"""`aap export`, `aap import-person`, `aap rectify`: what a person may ask to have, to take along, to have put right."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import console, print_json, table
from security.audit import note_once
from settings.config import load_settings
from storage.layout import Layout

__all__ = ["export", "import_person", "rectify"]

_User = Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    user: _User,
    into: Annotated[Path | None, typer.Option(help="Folder for the files; data alone is printed without.")] = None,
) -> None:
    """Hand over everything held of a person: JSON and Parquet with a schema, and a page to read."""
    from privacy.export import collect, write_export
    from privacy.holdings import open_holdings
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    key = load_pseudonyms(Layout(settings.home)).user_key(user)
    held, now = open_holdings(settings), settings.now()
    note_once(held.layout.audit, "export a person", by="command line", at=now, about=[key])
    if into is None:
        print_json(collect(held, key, now=now))
        return
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise typer.BadParameter(f"{into} is there already and not empty: name a new folder.")
    told = write_export(held, key, into=into, now=now)
    events = sum(len(rows) for rows in told["events"].values())
    console.print(f"{events:,} events, {len(told['consents']):,} choices, {len(told['predictions']):,} predictions. "
                  f"To read: {into / 'report.html'}", soft_wrap=True)  # fmt: skip


def import_person(
    folder: Annotated[Path, typer.Argument(help="What `aap export --into` wrote, here or on another platform.")],
    key_file: Annotated[
        Path | None, typer.Option(help="Public key of the platform that wrote it.", dir_okay=False)
    ] = None,
    as_json: _Json = False,
) -> None:
    """Take in one person's export: their choices, then the events these cover. Doing it twice adds nothing."""
    from consent.signing import read_public_key
    from privacy.holdings import open_holdings
    from privacy.take_in import take_in

    settings = load_settings()
    public = read_public_key(key_file) if key_file else None
    done = take_in(open_holdings(settings), folder, now=settings.now(), public_key=public)
    if as_json:
        print_json({"choices": done.choices, "accepted": dict(done.accepted), "duplicates": done.duplicates,
                    "refused": done.refused})  # fmt: skip
        return
    rows = [("choices", done.choices), *((f"{n} events", c) for n, c in sorted(done.accepted.items()))]
    rows += [("known already", done.duplicates), ("not covered by any grant", done.refused)]
    table("what", "count", rows=rows, numbers=["count"])
    if key_file is None:
        console.print("Whoever wrote it was not checked: --key-file does that.")


def rectify(
    user: _User,
    event: Annotated[str, typer.Argument(help="The event's id; `aap export` lists them.")],
    source: Annotated[str, typer.Option(help="The event's source.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="field=value; an empty value takes it out.")
    ] = None,
    occurred_at: Annotated[datetime | None, typer.Option(help="When it really occurred (UTC).")] = None,
    as_json: _Json = False,
) -> None:
    """Correct a past event. The next build of features, and the next retrain, are as if it had always been right."""
    from privacy.holdings import open_holdings
    from privacy.rectify import rectify as run
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    key = load_pseudonyms(Layout(settings.home)).user_key(user)
    parsed: dict[str, Any] = {}
    for change in changes or ():
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{change!r} is not field=value.")
        parsed[name.strip()] = value or None
    note = run(
        open_holdings(settings),
        key,
        source=source,
        event_id=event,
        changes=parsed,
        occurred_at=occurred_at.replace(tzinfo=occurred_at.tzinfo or UTC) if occurred_at else None,
        now=settings.now(),
    )
    at = settings.now()
    note_once(Layout(settings.home).audit, "correct an event of a person", by="command line", at=at, about=[key])
    if as_json:
        print_json(note)
        return
    console.print(f"Corrected: {', '.join(note['fields'])} of one {note['event']} event. Run `aap features build` and "
                  "`aap features materialize`, or wait for the next retrain.", soft_wrap=True)  # fmt: skip
