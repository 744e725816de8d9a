"""`aap keyring`: the keys that seal the archive and the id map. (API keys are `aap keys`.)"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Any

import typer

from aap.cli.terminal import print_json, table
from aap.config import Settings, load_settings

__all__ = ["app"]

app = typer.Typer(help="List and rotate the keys that seal archive and ids on disk.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_keys(as_json: _Json = False) -> None:
    """Show every key: its age, whether it seals, and what lies sealed under it; fails when one that is needed is gone."""
    settings = load_settings()
    _tell(settings, now=settings.now(), as_json=as_json)


@app.command()
def rotate(as_json: _Json = False) -> None:
    """Make a new key, which seals from now on. Ids move to it at once; archive files keep the key they have."""
    from aap.infra.keyring import open_keyring
    from aap.infra.paths import Layout
    from aap.security.audit_log import note_once
    from aap.security.id_map import open_id_map

    settings = load_settings()
    now, layout = settings.now(), Layout(settings.home)
    made = open_keyring(layout).rotate(now=now)
    open_id_map(settings).rotate(now=now)
    note_once(layout.audit, f"make the sealing key {made.name}", by="command line", at=now)
    _tell(settings, now=now, as_json=as_json)


def _tell(settings: Settings, *, now: datetime, as_json: bool) -> None:
    from aap.events.archive import Archive
    from aap.infra.keyring import LIFETIME, open_keyring
    from aap.infra.object_store import archive_folder
    from aap.infra.paths import Layout
    from aap.security.id_map import open_id_map

    masters = open_keyring(Layout(settings.home)).masters()
    files = Counter(Archive(archive_folder(settings)).keys().values())
    people = open_id_map(settings).masters()
    told: list[dict[str, Any]] = [
        {
            "key": master.name,
            "age_days": (now - master.made_at).days,
            "state": "seals" if master == masters[-1] and now - master.made_at <= LIFETIME else "opens",
            "archive_files": files.pop(master.name, 0),
            "ids": people.pop(master.name, 0),
        }
        for master in masters
    ]
    if as_json:
        print_json({"keys": told, "open_files": files[""], "ids_under_one_key": people.get("", 0)})
        return
    rows = [tuple(f"{v:,}" if isinstance(v, int) else v for v in line.values()) for line in told]
    numbers = ["age, days", "archive files", "ids"]
    table("key", "age, days", "state", "archive files", "ids", rows=rows, numbers=numbers)
    if files[""]:
        typer.echo(f"{files['']:,} archive files are not sealed: they are from before, or AAP_SEAL_ARCHIVE is off.")
