"""Two worlds of one shop: one in which everybody was there, and one in which a person never was. Same keys, same clock."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from aap.config import Settings
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.features.offline.build import Built, build
from aap.features.retrieval import open_retrieval
from aap.infra.object_store import archive_folder, features_folder
from aap.infra.paths import Layout
from aap.jobs.ingest import import_source
from aap.jobs.publish_features import bring_online, build_features
from aap.modeling.catalog import model_classes
from aap.modeling.registry.artifacts import digests
from aap.modeling.train_and_promote import training_settings
from aap.privacy.data_inventory import Holdings, open_holdings
from aap.security.pseudonyms import load_pseudonyms
from tests.shop import CLOSES, set_clock, write_shop

WHO = "client-0"
"""Somebody who agreed to everything, and buys."""


def open_shop(home: Path, *, customers: int = 150, without: str | None = None, keys_of: Path | None = None) -> Settings:
    """A home with the shop's history imported, `without` one customer's rows if so said."""
    home.mkdir(parents=True)
    if keys_of is not None:
        shutil.copytree(keys_of / "keys", home / "keys")
    settings = set_clock(home)
    table, mapping = write_shop(home / "shop", customers=customers)
    if without is not None:
        leave_out(table, "Client", without)
        leave_out(table.with_name("accords.csv"), "qui", without)
    import_source(settings, str(table), mapping=mapping, now=CLOSES)
    return settings


def leave_out(file: Path, column: str, who: str) -> None:
    """Rewrite a CSV file without one person's rows."""
    with file.open(newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        names, rows = list(reader.fieldnames or ()), [row for row in reader if row[column] != who]
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def publish(settings: Settings) -> None:
    """Features built and online."""
    build_features(settings, as_of=CLOSES)
    bring_online(settings, as_of=CLOSES)


def build_only(settings: Settings, *, now: datetime, anew: bool = False) -> list[Built]:
    """Features built, for what is allowed at `now`."""
    standing = open_ledger(settings).standing(in_force_at=now)
    return build(
        archive=Archive(archive_folder(settings)),
        folder=features_folder(settings),
        standing=standing,
        as_of=CLOSES,
        anew=anew,
    )


def models_of(settings: Settings, folder: Path) -> dict[str, dict[str, str]]:
    """Every model fitted on what is there, as the digests of its files."""
    training, retrieval, found = training_settings(settings), open_retrieval(settings), {}
    for name, kind in model_classes().items():
        parameters: Any = training.models[name]
        data = kind.examples(retrieval, until=CLOSES, as_of=CLOSES, parameters=parameters)
        (folder / name).mkdir(parents=True)
        kind.fit(data, parameters=parameters, seed=training.seed).save(folder / name)
        found[name] = digests(folder / name)
    return found


def key_of(settings: Settings, user: str = WHO) -> str:
    """Their pseudonym."""
    return load_pseudonyms(Layout(settings.home)).user_key(user)


def holdings(settings: Settings) -> Holdings:
    """Everything the platform holds."""
    return open_holdings(settings)


def files_that_hold(home: Path, text: str) -> list[str]:
    """Every file below `home`, but the shop's own, in which `text` stands in clear."""
    wanted = text.encode()
    files = (f for f in home.rglob("*") if f.is_file() and "shop" not in f.relative_to(home).parts)
    return sorted(str(f.relative_to(home)) for f in files if wanted in f.read_bytes())


def as_json(content: Any) -> Any:
    """What comes back from a file."""
    return json.loads(json.dumps(content))
