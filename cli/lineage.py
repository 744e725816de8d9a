"""`aap models why` and `trained-on`: what a version was made of, whether that holds, and whom it learned from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import console, table
from settings.config import load_settings
from storage.layout import Layout

if TYPE_CHECKING:
    from datetime import datetime

    from models.provenance import Provenance
    from models.registry import ModelVersion

__all__ = ["ended_of", "lineage_of", "trained_on", "why"]


def why(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    version: Annotated[int, typer.Argument(help="A version's number.", min=1)],
) -> None:
    """Say why a version was promoted or not, whether the service refused it, and what it was made of."""
    from models.provenance import open_provenance

    settings = load_settings()
    provenance = open_provenance(settings)
    found = provenance.registry.version(model, version)
    lines = json.loads(found.tags.get("promotion_reasons", "[]")) or ["No decision is recorded for it."]
    if found.refusal:
        lines.append(f"The service refuses to answer with it: {found.refusal}.")
    lines += lineage_of(found, provenance, now=settings.now())
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def trained_on(user: Annotated[str, typer.Argument(help="The person's id, as your systems know it.")]) -> None:
    """Say which versions were trained on a person. One that doesn't say on whom counts as trained on them."""
    from models.registry import open_registry
    from models.roster import model_classes
    from security.audit import note_once
    from security.pseudonyms import load_pseudonyms

    settings = load_settings()
    layout = Layout(settings.home)
    registry, key = open_registry(settings), load_pseudonyms(layout).user_key(user)
    note_once(
        layout.audit, "read which versions learned from a person", by="command line", at=settings.now(), about=[key]
    )
    rows = [
        (v.name, v.version, ", ".join(v.aliases) or None, "to be replaced" if v.tainted else None)
        for name in model_classes()
        for v in registry.trained_on(name, key)
    ]
    if rows:
        table("model", "version", "alias", "marked", rows=rows, numbers=["version"])
    else:
        console.print("No version was trained on this person.")


def lineage_of(version: ModelVersion, provenance: Provenance, *, now: datetime) -> list[str]:
    """A version's manifest and whose consent to it ended since, in sentences; or why it may not answer."""
    from models.errors import UnsoundLineage

    try:
        checked = provenance.check(version)
        ended = provenance.ended(version, now=now, checked=checked)
    except UnsoundLineage as error:
        return [f"It may not answer: {error}"]
    manifest = checked.manifest
    under = " and ".join([manifest["purpose"], *manifest["requires"]])
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest["excluded"].items())) or "none"
    return [
        f"Its {manifest['rows']} rows were used under {under}, and the first {manifest['ledger_size']} records of consent; "
        f"left out: {left_out}. The signed manifest holds.",
        str(ended),
    ]


def ended_of(version: ModelVersion, provenance: Provenance, *, now: datetime) -> str:
    """The same in a word, for a list: how many have ended their consent, or that nobody can say."""
    from models.errors import UnsoundLineage

    try:
        found = provenance.ended(version, now=now)
    except UnsoundLineage:
        return "unsound"
    return f"{found.ended} of {found.people}"
