"""A world: a small shop on the real platform. Two worlds share keys and clock, and what each leaves behind can be compared.

Ids that are drawn at random (of answers) and moments of the machine (of files) are no part of what is compared; everything
else a store holds is, as the bytes or the rows it holds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import redis

from aap.config import Settings, load_settings
from aap.consent.ledger.records import fields_of
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk, open_ledger
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.collector import Collected, Collector
from aap.events.streaming.columns import decode
from aap.events.streaming.event_log import PARTITIONS, RedisStreamLog, key_of
from aap.experiments.assignment.assigner import Assigner
from aap.experiments.assignment.exposures import Exposures
from aap.experiments.flags.store import Flags
from aap.features.declarations import Entity
from aap.features.offline.build import build
from aap.features.offline.store import built_view
from aap.features.online import reader
from aap.features.online.materialize import latest_items, latest_rows
from aap.features.retrieval import Retrieval, open_retrieval
from aap.features.views import all_views
from aap.infra.object_store import Folder, archive_folder, features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.jobs.ingest import archive_live_events
from aap.jobs.streaming.worker import LiveWorker
from aap.modeling.errors import TooFewRows
from aap.modeling.evaluation.ranking import Recommendation
from aap.modeling.list_constraints import Wishes
from aap.privacy.data_inventory import open_holdings
from aap.privacy.export import collect
from aap.privacy.retention import retain
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms
from aap.serving.inference.catalog_filter import Shelves
from aap.serving.inference.item_names import ItemNames
from aap.serving.inference.predictor import Predictor
from aap.serving.logging.feature_sampling import SampledFeatures, ServedSample
from aap.serving.logging.prediction_log import PredictionRecords
from aap.serving.model_cache import InUse
from aap_client.requests import Ranked
from models.popularity.model import Popularity, PopularityParameters
from tests.unit.serving.shop_window import Spend

__all__ = ["OPENS", "World", "purchase", "told_apart", "two_worlds"]

OPENS = datetime(2024, 3, 1, 12, tzinfo=UTC)
_PARAMETERS = PopularityParameters(horizon_days=14, weeks=8, min_buyers=1, most_items=50)


@dataclass
class Habits:
    """Recommends what a person bought last, then what everybody buys."""

    popular: Sequence[str]
    features: tuple[str, ...] = ("product_last_1000", "basket_last_1000")

    def recommend(
        self, sequences: Sequence[Sequence[str]], *, baskets: Sequence[Sequence[str]], n: int, strategy: str,
        wishes: Wishes | None = None,
    ) -> list[list[Recommendation]]:  # fmt: skip
        ranked = [list(dict.fromkeys([*bought, *self.popular])) for bought in sequences]
        return [[Recommendation(i, 1.0, strategy) for i in row[:n]] for row in ranked]


@dataclass
class World:
    """One home and its Redis."""

    settings: Settings
    clock: list[datetime] = field(default_factory=lambda: [OPENS])
    answers: list[Any] = field(default_factory=list)
    """Everything that was answered, in order."""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of the model fitted last."""
    popular: Popularity | None = None

    @property
    def now(self) -> datetime:
        return self.clock[0]

    @property
    def client(self) -> redis.Redis:
        return connect(self.settings)

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.home)

    def key(self, user: str) -> str:
        return load_pseudonyms(self.layout).user_key(user)

    def say(self, user: str, status: Status, *purposes: Purpose) -> None:
        desk = open_desk(self.settings)
        for purpose in purposes or tuple(Purpose):
            desk.record(self.key(user), purpose, status, said_by="them", method="form", indicated_at=self.now,
                        received_at=self.now)  # fmt: skip

    def send(self, *events: dict[str, Any]) -> Collected:
        client = self.client
        return Collector(
            client, RedisStreamLog(client), open_desk(self.settings), RejectedLog(self.layout.rejected),
            load_pseudonyms(self.layout), open_id_map(self.settings),
        ).collect(events, now=self.now)  # fmt: skip

    def live(self) -> None:
        """A live worker takes everything there is."""
        worker = LiveWorker(self.client, Archive(archive_folder(self.settings)), lambda: self.now, name="one")
        while worker.step():
            pass
        while worker.tend(busy=False):
            pass
        for partition in range(PARTITIONS):
            self.client.delete(*(key_of(partition, f"live:{name}") for name in ("lease", "at", "folded")))
        self.client.delete("live:workers")

    def publish(self) -> None:
        """Archive, build, bring online."""
        archive_live_events(self.settings, now=self.now)
        archive, folder = Archive(archive_folder(self.settings)), features_folder(self.settings)
        standing = open_ledger(self.settings).standing(in_force_at=self.now)
        build(archive=archive, folder=folder, standing=standing, as_of=self.now)
        open_desk(self.settings).catch_up(now=self.now)
        for view in all_views():
            if view.entity is Entity.ITEM:
                reader.write_items(self.client, view, latest_items(view, folder=folder, as_of=self.now))
            else:
                rows = latest_rows(view, folder=folder, archive=archive, standing=standing, as_of=self.now)
                reader.write_many(self.client, view, rows)

    def train(self) -> None:
        """Fit what answers people who said no; where nobody says yes the model of before stays, as in a retrain."""
        data = Popularity.examples(self.door(), until=self.now, as_of=self.now, parameters=_PARAMETERS)
        try:
            self.popular = Popularity.fit(data, parameters=_PARAMETERS, seed=1)
        except TooFewRows:
            return
        place = self.settings.home / "fitted"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.popular.save(place)
        self.models["popularity"] = {f.name: f.read_bytes() for f in sorted(place.iterdir())}

    def door(self) -> Retrieval:
        return open_retrieval(self.settings)

    def predict(self, *users: str) -> None:
        """Ask every endpoint about these people; answers, records, samples and exposures are kept."""
        if self.popular is None:
            return
        layout, door = self.layout, self.door()
        exposures, records = Exposures(layout.exposures), PredictionRecords(layout.predictions)
        served = ServedSample(layout.served, rate=1.0)
        flags = Flags(self.settings.settings_dir / "flags.json", checked=layout.run / "flags.json")
        keys = [self.key(u) for u in users]
        try:
            assigner = Assigner(self.client, flags=flags, exposures=exposures)
            predictor = Predictor(
                SampledFeatures(door, served), _Models(self.popular, door, keys, self.now), assigner,
                ItemNames(door.item_names, stamp=lambda: None), Shelves(door.catalogue), records.add,
            )  # fmt: skip
            made = [
                predictor.recommendations(keys, asked=Ranked(n=5), now=self.now), predictor.churn(keys, now=self.now),
                predictor.segments(keys, now=self.now), predictor.anomalies(keys, now=self.now),
            ]  # fmt: skip
        finally:
            for kept in (exposures, records, served, flags):
                kept.close()
        self.answers += [_plain(a) for answers in made for a in answers]

    def retain(self) -> None:
        retain(open_holdings(self.settings), now=self.now)

    def sinks(self, *, allowed: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
        """Everything held; exports of those `allowed`. Stored rows of those in `without` are left out."""
        hidden = {self.key(u) for u in without}
        held = open_holdings(self.settings)
        found: dict[str, Any] = {f"archive {name}": rows for name, rows in self.archived(hidden).items()}
        found |= {f"redis {name}": value for name, value in _everything(self.client, hidden).items()}
        found |= {f"model {n}": files for n, files in self.models.items()}
        found["ids"] = sorted(set(held.id_map.user_keys()) - hidden)
        found["ledger"] = [fields_of(r.seq, r.entry, r.received_at) for r in held.desk.ledger.records()]
        found["rejected"] = [(r.door, r.event, r.reason, r.user_key, r.payload) for r in held.rejected.list()]
        for name in ("predictions", "exposures", "served"):
            found[name] = _rows(getattr(self.layout, name))
        found["answers"] = list(self.answers)
        for view in all_views():
            if (self.layout.features / view.name).exists():
                built = built_view(held.features, view)
                found |= {f"{view.name} {p.name}": built.folder.read(p.name) for p in (*built.pieces, built.spans)}
        found |= {f"export of {u}": _plain(collect(held, self.key(u), now=self.now)) for u in allowed}
        return found

    def rows_in(self, file: Path) -> list[dict[str, Any]]:
        """The rows of a Parquet file below the home, its seal opened."""
        home = replace(Folder.at(self.settings.home), seal=archive_folder(self.settings).seal)
        with home.parquet_file(file.relative_to(self.settings.home).as_posix()) as opened:
            rows: list[dict[str, Any]] = opened.read().to_pylist()
        return rows

    def archived(self, hidden: set[str]) -> dict[str, list[Any]]:
        """The rows of every event type, without those of people who are `hidden`."""
        archive, found = Archive(archive_folder(self.settings)), {}
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for event in archive.types():
                rows = connection.execute(f"FROM {archive.sql(event, on=connection)}").to_arrow_table().to_pylist()
                left = sorted((r for r in rows if r["user_key"] not in hidden), key=lambda r: (r["source"], r["id"]))
                found |= {event: left} if left else {}
        return found


@dataclass(frozen=True)
class _Models:
    """Models whose answers can be worked out by hand, over whatever features are served."""

    popular: Popularity
    door: Retrieval
    keys: Sequence[str]
    now: datetime

    def get(self, name: str) -> InUse:
        if name == "popularity":
            return InUse(name, "1", "0", self.popular)
        if name == "recommendation":
            return InUse(name, "1", "0", Habits(self.popular.item_ids))
        features = self.door.online_vectors(self.keys[:1], service=name, now=self.now).features
        return InUse(name, "1", "0", Nan(features=features))


@dataclass
class Nan(Spend):
    """Answers from all values at once."""

    def score(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.nan_to_num(values).sum(axis=1) / 1e4)


def told_apart(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The sinks that are not the same."""
    return sorted(name for name in one | other if one.get(name, "nothing") != other.get(name, "nothing"))


@contextmanager
def two_worlds(folder: Path, redis_url: str) -> Iterator[tuple[World, World]]:
    """Two worlds with the same secrets, flags and clock."""
    clock, made = [OPENS], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Settings, "now", lambda _: clock[0])
        for number, name in enumerate(("one", "other")):
            home = folder / name
            home.mkdir(parents=True)
            patched.setenv("AAP_REDIS_URL", f"{redis_url.rpartition('/')[0]}/{number}")
            if made:
                shutil.copytree(made[0].settings.home / "keys", home / "keys")
            world = World(load_settings(home), clock)
            world.client.flushdb()
            world.key("anybody")
            open_id_map(world.settings)
            made.append(world)
        yield made[0], made[1]


def _everything(client: redis.Redis, hidden: set[str]) -> dict[str, Any]:
    """Every key of a Redis and what it holds; of the log's entries what they say, not when they were written."""
    found: dict[str, Any] = {}
    for name in sorted(client.scan_iter(count=1_000)):
        kind = client.type(name)
        key = name.decode()
        if kind == b"string":
            found[key] = client.get(name)
        elif kind == b"hash":
            found[key] = {k: v for k, v in client.hgetall(name).items() if k != b"place"}  # type: ignore[union-attr]
        elif kind == b"set":
            found[key] = sorted(client.smembers(name))  # type: ignore[arg-type]
        elif kind == b"zset":
            found[key] = client.zrange(name, 0, -1, withscores=True)
        elif kind == b"stream":
            entries: Any = client.xrange(name)
            told = [(f[b"t"], [e for c in decode(f[b"e"]) for e in c.events()]) for _, f in entries]
            found[key] = [(total, [e for e in events if e.user_key not in hidden]) for total, events in told]
        else:
            raise AssertionError(f"{key} is a {kind!r}, which is not compared yet")
    return found


def _rows(folder: Path) -> list[str]:
    tables = [pq.read_table(f, partitioning=None) for f in sorted(folder.rglob("*.parquet"))]
    return sorted(_plain(row) for table in tables for row in table.to_pylist())


def _plain(content: Any) -> str:
    """As text, without the random id of an answer."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): told(v) for k, v in value.items() if k != "prediction_id"}
        if hasattr(value, "__dataclass_fields__"):
            return told({name: getattr(value, name) for name in value.__dataclass_fields__})
        if isinstance(value, list | tuple):
            return [told(v) for v in value]
        return value

    return json.dumps(told(content), default=str, sort_keys=True)


def purchase(number: int, user: str, item: str, at: datetime, *, amount: str = "2.50") -> dict[str, Any]:
    """One line as an app sends it."""
    return {
        "source": "web", "id": f"line-{number}", "type": "product_purchased", "user_id": user,
        "occurred_at": at.isoformat(),
        "properties": {"basket_id": f"b{number}", "item_id": item, "quantity": 1, "amount": amount, "department": "d",
                       "store_id": "s"},
    }  # fmt: skip
