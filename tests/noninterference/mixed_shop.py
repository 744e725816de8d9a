"""The other shop of `tests/shop.py` with people of every kind: those whose doings may matter, and those whose may not.

Of ten customers five are as everybody else, and five are such that what they did may not matter, each for another reason
(`Kind`). Where a kind is `changed`, its people did other things: the same lines of the same table, about other articles at
other prices.
"""

from __future__ import annotations

import csv
import shutil
from enum import StrEnum
from pathlib import Path

import yaml

from aap.config import Settings, load_settings
from aap.jobs.ingest import import_source
from aap.project.loader import project_conf
from tests.noninterference.world import World
from tests.shop import PURPOSES, write_shop

__all__ = ["CUSTOMERS", "FORBIDDEN", "Kind", "Kinds", "kind_of", "open_mixed_shop"]

CUSTOMERS = [f"client-{n}" for n in range(50)]
_FIRST_DAY = "2023-07-01"
_LATE, _BEFORE_LATE = "15/10/2023", "2023-10-14"
_FRAUD = "essential.fraud_detection"


class Kind(StrEnum):
    """Why what somebody did may not matter."""

    OPEN = "said yes to everything: it may"
    REPORTED = "allows reporting and marketing, not training or profiling"
    REFUSER = "said no to everything"
    QUITTER = "said yes to everything, and takes it back after the import"
    LATE = "said yes in October; what was before differs"
    UNKNOWN = "is in no record"


Kinds = frozenset[Kind]
FORBIDDEN = frozenset(Kind) - {Kind.OPEN}
_BY_DIGIT = (Kind.OPEN, Kind.REPORTED, Kind.REFUSER, Kind.QUITTER, Kind.LATE, Kind.UNKNOWN)


def kind_of(user: str) -> Kind:
    """By the last digit of the customer's number."""
    digit = int(user.rpartition("-")[2]) % 10
    return _BY_DIGIT[digit] if digit < len(_BY_DIGIT) else Kind.OPEN


def open_mixed_shop(
    home: Path, redis_url: str, *, keys_of: Path | None = None, changed: Kinds = frozenset()
) -> Settings:
    """A home into which the shop's history was imported; people of the kinds `changed` did other things in it."""
    home.mkdir(parents=True)
    if keys_of is not None:
        shutil.copytree(keys_of / "keys", home / "keys")
    settings_dir = home.parent / "settings"
    if not settings_dir.exists():
        shutil.copytree(project_conf(), settings_dir)
        _make_small(settings_dir / "training.yaml")
    (home / "aap.env").write_text(
        f"AAP_REDIS_URL={redis_url}\nAAP_SERVED_SAMPLE_RATE=1\nAAP_RATE_LIMIT=0\nAAP_SETTINGS_DIR={settings_dir}\n"
    )
    settings = load_settings(home)
    World(settings).client.flushdb()
    table, mapping = write_shop(home / "shop", customers=len(CUSTOMERS))
    _rewrite(table, changed)
    _answer(table.with_name("accords.csv"))
    import_source(settings, str(table), mapping=mapping, now=settings.now())
    return settings


def _make_small(file: Path) -> None:
    """Models as they are, only smaller."""
    told = yaml.safe_load(file.read_text())
    for section in told["models"].values():
        section |= {k: small for k, small in _SMALL.items() if k in section}
    file.write_text(yaml.safe_dump(told))


_SMALL = {
    "min_rows": 10, "trees": 10, "most_trees": 20, "factors": 4, "iterations": 3, "cuts": 4, "inner_cuts": 2,
    "min_child_weight": 1.0, "starts": 2, "stability_draws": 2, "most_clusters": 3, "discoveries": 20, "min_buyers": 2,
}  # fmt: skip


def _rewrite(table: Path, changed: Kinds) -> None:
    """Keep the second half of the year; what may differ is about other articles at another price."""
    with table.open(newline="", encoding="utf-8") as source:
        reader = csv.DictReader(source)
        names, rows = list(reader.fieldnames or ()), list(reader)
    rows = [r for r in rows if _day(r["Date"]) >= _FIRST_DAY]
    for row in rows:
        kind = kind_of(row["Client"]) if row["Client"] else None
        if kind in changed and (kind is not Kind.LATE or _day(row["Date"]) < _BEFORE_LATE):
            number = int(row["Article"].removeprefix("ART-"))
            row |= {"Article": f"ART-{number * 7 % 90:03}", "Nombre": "5", "Rayon": "R9"}
            row |= {} if row["Prix"] == "cher" else {"Prix": "77.77"}
    with table.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _day(date: str) -> str:
    """As it sorts; what is no date comes last."""
    if date == "hier":
        return "later"
    day, month, year = date.partition(" ")[0].split("/")
    return f"{year}-{month}-{day}"


def _answer(file: Path) -> None:
    """What each said, by their kind. Fraud detection needs no yes, so those it is about have to object to it."""
    rows: list[list[str]] = []
    for user in CUSTOMERS:
        kind = kind_of(user)
        if kind in (Kind.OPEN, Kind.QUITTER):
            rows += [[user, purpose, "oui", "28/12/2022"] for purpose in PURPOSES]
        elif kind is not Kind.UNKNOWN:
            rows.append([user, _FRAUD, "fini", "28/12/2022"])
        if kind is Kind.REFUSER:
            rows += [[user, purpose, "non", "28/12/2022"] for purpose in PURPOSES]
        elif kind is Kind.LATE:
            rows += [[user, purpose, "oui", _LATE] for purpose in (*PURPOSES, _FRAUD)]
        elif kind is Kind.REPORTED:
            allowed = ("analytics.reporting", "marketing.retention")
            rows += [[user, p, "oui" if p in allowed else "non", "28/12/2022"] for p in PURPOSES]
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerows([["qui", "pourquoi", "reponse", "quand"], *rows])
