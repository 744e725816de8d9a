"""`aap export`, `import-person`, `rectify`, `erase`, `retention`: a person's data handed over, put right, or deleted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from aap.cli.terminal import console, counted, print_json, table
from aap.config import load_settings
from aap.infra.paths import Layout
from aap.security.audit_log import note_once

__all__ = ["erase", "export", "import_person", "rectify", "retention"]

_User = Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def export(
    user: _User,
    into: Annotated[Path | None, typer.Option(help="Folder for the files; data alone is printed without.")] = None,
) -> None:
    """Hand over everything held of a person: JSON and Parquet with a schema, and a page to read."""
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.export import collect, write_export
    from aap.security.pseudonyms import load_pseudonyms

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
    from aap.consent.ledger.signing import read_public_key
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.import_export import take_in

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
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.rectification import rectify as run
    from aap.security.pseudonyms import load_pseudonyms

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


def erase(
    user: _User,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: it can't be undone.")] = False,
    into: Annotated[Path | None, typer.Option(help="File to write the certificate to as well.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate.")] = False,
) -> None:
    """Erase a person from every store and certify it.

    Item features are computed anew; model versions they taught are marked, and the next retrain replaces them.
    """
    from aap.infra.atomic_files import write_atomically
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.erasure import erase as run
    from aap.security.pseudonyms import load_pseudonyms

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


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete events and records that are older than their purpose keeps them, or that no grant covers any more."""
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.retention import retain

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
