"""A world that also learns: the other shop of `tests/shop.py`, imported, trained on, served and reported.

Of ten customers five are as everybody else, and five are such that what they did may not matter, each for another reason
(`Kind`). In the other world these did other things: the same lines of the same table, about other articles at other prices.
`sinks` is everything both worlds leave behind. What is told apart by nature is taken out of it, and only that: how long
something took, ids drawn at random, where the home lies, secrets and signatures made with randomness, and the rows of
those whose data may be kept for one purpose.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from consent.choices import open_desk
from consent.policy import Status
from consent.purposes import Purpose
from feature_repo.offline_values import built_view
from feature_repo.retrieval import open_retrieval
from feature_repo.views import all_views
from models.registry import open_registry
from models.roster import MODELS
from pipelines.consistency import check_consistency
from pipelines.ingest import import_source
from pipelines.promotion import training_settings
from pipelines.publish import build_features
from pipelines.retrain import retrain
from privacy.export import write_export
from privacy.holdings import open_holdings
from security.api_keys import ApiKeys, Scope
from security.audit import read_audit
from security.pseudonyms import load_pseudonyms
from serving.platform import Platform
from settings.config import Settings, load_settings
from storage.folder import features_folder
from storage.layout import Layout
from tests.noninterference.world import World
from tests.serving.shop_window import calling
from tests.shop import CLOSES, PURPOSES, write_shop

__all__ = ["FORBIDDEN", "Kind", "TrainedWorld", "a_clock", "fitted", "kind_of", "lived"]

_FIRST_DAY = "2023-07-01"
_LATE, _BEFORE_LATE = "15/10/2023", "2023-10-14"
_CUSTOMERS = 50
_FRAUD = "essential.fraud_detection"
_SEVERAL = ("recommendations", "churn", "segments", "anomalies")
_TIMING = re.compile(r"aap_request_seconds_(bucket|sum)|_created\b|aap_features_age_seconds")


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


@dataclass
class TrainedWorld:
    """One home, and what it said while it ran."""

    settings: Settings
    customers: list[str]
    changed: Kinds = frozenset()
    """Whose doings are the other ones."""
    answers: list[Any] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.home)

    def of(self, *kinds: Kind) -> list[str]:
        """The customers of these kinds."""
        return [user for user in self.customers if kind_of(user) in kinds]

    def key(self, user: str) -> str:
        return load_pseudonyms(self.layout).user_key(user)

    def take_back(self, kind: Kind) -> None:
        """All of a kind withdraw everything."""
        desk, now = open_desk(self.settings), self.settings.now()
        for user, purpose in itertools.product(self.of(kind), Purpose):
            desk.record(self.key(user), purpose, Status.WITHDRAWN, said_by="them", method="form", indicated_at=now,
                        received_at=now)  # fmt: skip

    def fit(self) -> None:
        """Build the features and fit every model on them, without a registry."""
        now, training = self.settings.now(), training_settings(self.settings)
        build_features(self.settings, as_of=now)
        door = open_retrieval(self.settings)
        for name, kind in MODELS.items():
            parameters = training.models[name]
            data = kind.examples(door, until=now, as_of=now, parameters=parameters)
            folder = self.settings.home / "fitted" / name
            folder.mkdir(parents=True)
            kind.fit(data, parameters=parameters, seed=training.seed).save(folder)

    def retrain(self) -> None:
        """The whole weekly retrain; every version answers, whatever the gate says of so small a shop."""
        done = retrain(self.settings, as_of=self.settings.now())
        registry = open_registry(self.settings)
        for name in MODELS:
            found = done.steps[f"train {name}"].result
            assert "version" in found, found
            if registry.champion(name) is None:
                registry.promote(name, registry.versions(name)[0].version, reasons=("Promoted by the test.",))

    def serve(self) -> None:
        """Answer everybody about everything over HTTP, and take in what they do meanwhile."""
        platform = Platform(self.settings)
        platform.models.refresh()
        keys = ApiKeys(self.layout.api_keys)
        key = keys.create("everything", scopes=list(Scope), now=self.settings.now())
        with calling(platform) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            before = _counted(client)
            compared = self.of(Kind.OPEN, Kind.LATE)
            denied = self.of(Kind.REFUSER, Kind.QUITTER, Kind.UNKNOWN)
            for endpoint in _SEVERAL:
                for users in (compared, denied, ["a stranger"]):
                    self.answers.append((endpoint, _asked(client, endpoint, users)))
                _asked(client, endpoint, self.of(Kind.REPORTED))
            self.answers.append(("similar", client.post("/v1/similar-items", json={"item_ids": ["ART-001"]}).json()))
            for user in (*compared, *denied):
                item = "ART-077" if kind_of(user) in self.changed - {Kind.LATE} else "ART-001"
                sent = [_bought(user, item, self.settings, odd=odd) for odd in (False, True)]
                self.answers.append(("events", client.post("/v1/events", json={"events": sent}).json()))
            after = _counted(client)
        platform.stop()
        self.metrics = {name: after[name] - before.get(name, 0.0) for name in after}

    def report(self) -> None:
        """Those who allowed reporting take it back; then what was served is recomputed and told."""
        self.take_back(Kind.REPORTED)
        check_consistency(self.settings, now=self.settings.now())

    def sinks(self) -> dict[str, Any]:
        """Everything that is left behind, by where."""
        hidden = {self.key(u) for u in self.of(Kind.REPORTED)}
        held_back = {self.key(u) for u in self.of(Kind.QUITTER)} | hidden
        found: dict[str, Any] = {f"answer {i} {what}": told for i, (what, told) in enumerate(self.answers)}
        found |= {f"metric {name}": value for name, value in self.metrics.items()}
        found["log"] = [self._plain(line) for line in self.log]
        found |= self._rows(hidden, held_back) | self._features(held_back) | self._mlflow()
        found |= self._files("report", self.layout.reports) | self._files("fitted", self.settings.home / "fitted")
        found |= self._export(self.of(Kind.OPEN)[0])
        found["audit"] = sorted(
            (e["action"], e["by"].partition(":")[0].startswith("account"), e["outcome"], e["count"])
            for e in read_audit(self.layout.audit, days=9)
        )
        return found

    def _rows(self, hidden: set[str], held_back: set[str]) -> dict[str, Any]:
        world = World(self.settings)
        kept = world.sinks(allowed=())
        found = {n: kept[n] for n in ("ids", "ledger")}
        found["rejected"] = [self._plain(repr(row)) for row in kept["rejected"]]
        found |= {f"archive {name}": rows for name, rows in world.archived(held_back).items()}
        theirs = tuple(f"redis {{u:{key}}}" for key in hidden)
        for name in (n for n in kept if n.startswith("redis ") and not n.startswith((*theirs, "redis rate:"))):
            remembered = ":ids:" in name  # digests of the lines of what was accepted, whoever's
            found[name] = len(kept[name]) if remembered else kept[name]
        for name in ("predictions", "exposures", "served", "vitals", "shadow"):
            tables = [
                pq.read_table(f, partitioning=None) for f in sorted(getattr(self.layout, name).rglob("*.parquet"))
            ]
            rows = [r for table in tables for r in table.to_pylist() if r.get("user_key") not in hidden]
            found[name] = sorted(self._told(r) for r in rows)
        return found

    def _features(self, hidden: set[str]) -> dict[str, Any]:
        """What the build of last left: byte for byte where nobody's rows may differ, else the rows of everybody else."""
        found: dict[str, Any] = {}
        for view in all_views():
            built = built_view(features_folder(self.settings), view)
            for file in (*built.pieces, built.spans):
                content, bucket = built.folder.read(file.name), file.name[0]
                if view.purpose in (Purpose.ANALYTICS_REPORTING, Purpose.MARKETING_RETENTION):
                    rows = pq.read_table(pa.BufferReader(content)).to_pylist()
                    content = sorted(repr(r) for r in rows if r.get("user_key", r.get("k")) not in hidden)
                    found[f"features {view.name} {bucket}"] = found.get(f"features {view.name} {bucket}", []) + content
                else:
                    found[f"features {view.name} {file.name}"] = content
        return found

    def _mlflow(self) -> dict[str, Any]:
        """Every table of MLflow's store, and every file of its artifacts, by the name of the run it is in."""
        found: dict[str, Any] = {}
        if not self.layout.mlflow.exists():
            return found
        with closing(sqlite3.connect(self.layout.mlflow / "mlflow.db")) as store:
            runs = {run: f"run {number}" for number, (run,) in enumerate(store.execute(
                "SELECT run_uuid FROM runs ORDER BY start_time, rowid"
            ))}  # fmt: skip
            for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = store.execute(f'SELECT * FROM "{name}"')
                columns = [c[0] for c in rows.description]
                told = [
                    self._told({c: v for c, v in zip(columns, row, strict=True) if not c.endswith(_WHEN)}, names=runs)
                    for row in rows
                ]
                found[f"mlflow table {name}"] = sorted(told)
        artifacts = self.layout.mlflow / "artifacts"
        for file in sorted(f for f in artifacts.rglob("*") if f.is_file()):
            path = self._plain(str(file.relative_to(artifacts)), runs)
            found[f"mlflow file {path}"] = self._content(file, names=runs)
        return found

    def _files(self, what: str, folder: Path) -> dict[str, Any]:
        files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "manifest.json")
        return {f"{what} {f.relative_to(folder)}": self._content(f) for f in files}

    def _export(self, user: str) -> dict[str, Any]:
        """What somebody is handed of themselves; its manifest is signed, so it differs where anything else does."""
        folder = self.settings.home.parent / f"export-{self.settings.home.name}"
        write_export(open_holdings(self.settings), self.key(user), into=folder, now=self.settings.now())
        return self._files("export", folder)

    def _content(self, file: Path, *, names: dict[str, str] | None = None) -> Any:
        """Bytes as they are; text without what tells worlds apart by nature."""
        if file.suffix not in (".html", ".json", ".txt", ".md"):
            return file.read_bytes()
        return self._plain(file.read_text(encoding="utf-8"), names)

    def _told(self, row: dict[str, Any], *, names: dict[str, str] | None = None) -> str:
        return self._plain(json.dumps({k: v for k, v in row.items() if k != "prediction_id"}, default=repr), names)

    def _plain(self, text: str, names: dict[str, str] | None = None) -> str:
        text = text.replace(str(self.settings.home), "HOME")
        for name, told in (names or {}).items():
            text = text.replace(name, told)
        for pattern, told in _BY_NATURE:
            text = pattern.sub(told, text)
        return text


_WHEN = ("_time", "_timestamp", "timestamp", "created_at", "last_updated_time")
_BY_NATURE = (
    (re.compile(r'("seconds"\\?: \\?)[\d.]+'), r"\1T"),
    (re.compile(r"(<td>(?:import|consistency|features|drift|experiments|train \w+)</td><td class='n'>)[\d.]+"), r"\1T"),
    (
        re.compile(
            r"(user__(?:analytics_reporting|marketing_retention)</td><td class='n'>\d+</td><td class='n'>)[\d,]+"
        ),
        r"\1N",
    ),
    (re.compile(r'("view": "user__(?:analytics_reporting|marketing_retention)",\s+"rows": )\d+'), r"\1N"),
    (re.compile(r"metric_[0-9a-f]{32}"), "metric_ID"),
    (re.compile(r'("prediction_id"\\?: \\?"|"run_id"\\?: \\?")[^"\\]+'), r"\1ID"),
    (re.compile(r'("ms(_squared)?": )[\d.]+'), r"\1T"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
)
"""How long a step took; how many change points there are of what some allow, which differ by right; and ids drawn at random,
in places where no pseudonym stands."""


def _asked(client: httpx.Client, endpoint: str, users: list[str]) -> Any:
    answer = client.post(f"/v1/{endpoint}", json={"user_ids": users})
    assert answer.status_code == 200, answer.text
    return [{k: v for k, v in a.items() if k != "prediction_id"} for a in answer.json()["answers"]]


def _bought(user: str, item: str, settings: Settings, *, odd: bool) -> dict[str, Any]:
    """A purchase as an app sends it, or, if `odd`, one with a field that nobody declared."""
    fields = {"basket_id": item, "item_id": item, "quantity": 1, "amount": "2.50", "department": "R1", "store_id": "s"}
    return {
        "source": "web", "id": f"{user}-{odd}", "type": "product_purchased", "user_id": user,
        "occurred_at": settings.now().isoformat(), "properties": fields | ({"colour": item} if odd else {}),
    }  # fmt: skip


def _counted(client: httpx.Client) -> dict[str, float]:
    """Every sample of ours on the metrics page, but durations and moments; of those, that they are there."""
    found: dict[str, float] = {}
    for line in client.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("aap_"):
            found[name] = 0.0 if _TIMING.search(name) else float(value)
    return found


@contextmanager
def a_clock() -> Iterator[list[datetime]]:
    """The platform's clock stands still, at the first of what is returned, unless that is changed."""
    at = [CLOSES]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Settings, "now", lambda _: at[0])
        patched.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)  # BentoML sets it in a process that imported it
        yield at


def fitted(home: Path, redis_url: str, clock: list[datetime], **how: Any) -> TrainedWorld:
    """A world whose models are fitted, and no more."""
    clock[0] = CLOSES
    world = _open(home, redis_url, **how)
    with _logged(world.log):
        world.take_back(Kind.QUITTER)
        clock[0] += timedelta(hours=1)
        world.fit()
    return world


def lived(home: Path, redis_url: str, clock: list[datetime], **how: Any) -> TrainedWorld:
    """A world in which everything was done that the platform does in a week."""
    clock[0] = CLOSES
    world = _open(home, redis_url, **how)
    with _logged(world.log):
        world.take_back(Kind.QUITTER)
        for step in (world.retrain, world.serve, world.report):
            clock[0] += timedelta(hours=1)
            step()
    return world


def _open(home: Path, redis_url: str, *, keys_of: Path | None = None, changed: Kinds = frozenset()) -> TrainedWorld:
    """A home into which the shop's history was imported; people of the kinds `changed` did other things in it."""
    home.mkdir(parents=True)
    if keys_of is not None:
        shutil.copytree(keys_of / "keys", home / "keys")
    settings_dir = home.parent / "settings"
    if not settings_dir.exists():
        shutil.copytree(Settings.model_fields["settings_dir"].default, settings_dir)
        _make_small(settings_dir / "training.yaml")
    (home / "aap.env").write_text(
        f"AAP_REDIS_URL={redis_url}\nAAP_SERVED_SAMPLE_RATE=1\nAAP_RATE_LIMIT=0\nAAP_SETTINGS_DIR={settings_dir}\n"
    )
    settings = load_settings(home)
    World(settings).client.flushdb()
    table, mapping = write_shop(home / "shop", customers=_CUSTOMERS)
    people = [f"client-{n}" for n in range(_CUSTOMERS)]
    _rewrite(table, changed)
    _answer(table.with_name("accords.csv"), people)
    import_source(settings, str(table), mapping=mapping, now=settings.now())
    return TrainedWorld(settings, people, changed)


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


def _answer(file: Path, people: list[str]) -> None:
    """What each said, by their kind. Fraud detection needs no yes, so those it is about have to object to it."""
    rows: list[list[str]] = []
    for user in people:
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


@contextmanager
def _logged(into: list[str]) -> Iterator[None]:
    """Every line our own loggers write, at every level."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            into.append(f"{record.levelname} {record.name} {record.getMessage()}")

    log, handler = logging.getLogger("aap"), Keep(logging.DEBUG)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
