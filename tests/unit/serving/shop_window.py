"""A shop small enough to see through: four people, models whose answers can be worked out by hand, one real Redis.

The retrieval here reads a dictionary instead of a feature store; everything else that a test meets is the real thing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import redis
import uvicorn

from aap.config import Settings
from aap.consent.policy import Decision
from aap.consent.purposes import Purpose
from aap.consent.redis_projection import consent_key, decisions
from aap.features.datasets import Status, Vectors
from aap.infra.paths import Layout
from aap.infra.process.detached import free_port
from aap.infra.redis.connection import connect
from aap.modeling.errors import UnknownStrategy
from aap.modeling.evaluation.ranking import Recommendation
from aap.modeling.list_constraints import Wishes
from aap.security.pseudonyms import load_pseudonyms
from aap.serving.app import build_app
from aap.serving.context import Platform
from aap.serving.http.connections import Connection
from models.popularity.model import Popularity
from tests.waiting import PATIENCE_S

FEATURES = ("spend_30d", "visits_30d")
SERVICES = {
    "recommendation": Purpose.PERSONALIZE_PROFILED,
    "churn": Purpose.MARKETING_RETENTION,
    "segments": Purpose.ANALYTICS_REPORTING,
    "anomaly": Purpose.ESSENTIAL_FRAUD_DETECTION,
}


_reads_by: ContextVar[redis.Redis] = ContextVar("_reads_by")


@dataclass
class Shelves:
    """What is known of people, read under the consent that Redis holds."""

    client: redis.Redis
    rows: dict[str, list[float]] = field(default_factory=dict)
    purchases: dict[str, list[str]] = field(default_factory=dict)
    features: tuple[str, ...] = FEATURES
    expired: set[str] = field(default_factory=set)

    def over(self, client: redis.Redis) -> Window:
        return Window(self, client)

    def decisions(self, user_keys: Sequence[str], *, purpose: Purpose, now: datetime) -> list[Decision]:
        blobs: Any = _reads_by.get(self.client).mget([consent_key(u) for u in user_keys])
        return decisions(blobs, purpose=purpose, now=now)

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors:
        made = self.decisions(user_keys, purpose=SERVICES[service], now=now)
        status = np.full((len(user_keys), len(self.features)), Status.NOT_FOUND, dtype=np.uint8)
        values = np.full(status.shape, np.nan)
        for i, (user, decision) in enumerate(zip(user_keys, made, strict=True)):
            if not decision.allowed:
                status[i] = Status.DENIED
            elif user in self.expired:
                status[i] = Status.EXPIRED
            elif user in self.rows:
                status[i], values[i] = Status.PRESENT, self.rows[user]
        bought = [self.purchases.get(u, []) if d.allowed else [] for u, d in zip(user_keys, made, strict=True)]
        return Vectors(self.features, values, status, tuple(made), {"items_last_50": bought, "baskets_last_50": bought})

    def catalogue(self) -> pa.Table:
        items = {"item_id": ["bread", "milk", "tea"], "department": ["bakery", "dairy", "drinks"]}
        return pa.table({**items, "category": ["food", "beverage", "beverage"]})

    def item_names(self, item_ids: Sequence[str]) -> dict[str, str]:
        return {i: i.title() for i in item_ids if i != "nameless"}


@dataclass
class Window:
    """The shelves as they are at each look, consent being read by another client."""

    shelves: Shelves
    client: redis.Redis

    def decisions(self, *asked: Any, **options: Any) -> list[Decision]:
        return self._ask("decisions", *asked, **options)

    def online_vectors(self, *asked: Any, **options: Any) -> Vectors:
        return self._ask("online_vectors", *asked, **options)

    def _ask(self, what: str, *asked: Any, **options: Any) -> Any:
        before = _reads_by.set(self.client)
        try:
            return getattr(self.shelves, what)(*asked, **options)
        finally:
            _reads_by.reset(before)


@dataclass
class Habits:
    """Recommends what was bought (`buy_again`) or what was not (`discover`)."""

    features: tuple[str, ...] = ("items_last_50", "baskets_last_50")

    def recommend(
        self,
        sequences: Sequence[Sequence[str]],
        *,
        baskets: Sequence[Sequence[str]],
        n: int,
        strategy: str,
        wishes: Wishes | None = None,
    ) -> list[list[Recommendation]]:
        wishes = wishes or Wishes()
        among = {"bread", "milk", "tea"} if wishes.among is None else wishes.among
        items = [i for i in ("bread", "milk", "tea") if i in among and i not in wishes.without]
        lists = []
        for bought in sequences:
            if strategy not in ("buy_again", "discover"):
                raise UnknownStrategy(f"No strategy {strategy!r}; choose one of: buy_again, discover.")
            ranked = [i for i in items if (i in bought) == (strategy == "buy_again")] if bought else items
            # All of its items are of one category.
            most = min(n, wishes.most_a_category or n)
            lists.append([Recommendation(i, 1.0, strategy if bought else "popular") for i in ranked[:most]])
        return lists

    def similar(self, item_id: str, n: int) -> list[Recommendation]:
        return [Recommendation(i, 0.5, "similar_item") for i in ("bread", "milk", "tea") if i != item_id][:n]


@dataclass
class Spend:
    """Answers every question about numbers from the first feature."""

    features: tuple[str, ...] = FEATURES
    horizon_days: int = 14
    threshold: float = 0.5
    shift: float = 0.0

    def score(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values[:, 0] / 100 + self.shift, 0, 1)

    def reasons(self, values: np.ndarray) -> list[list[str]]:
        return [[self.features[0]] for _ in values]

    drivers = reasons

    def assign(self, values: np.ndarray) -> list[Any]:
        @dataclass
        class Segment:
            segment: int
            name: str
            distance: float

        return [Segment(int(v > 50), "big" if v > 50 else "small", 0.5) for v in values[:, 0]]


@dataclass(frozen=True)
class Version:
    name: str
    version: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Shop:
    """A registry of models that can be promoted, broken and taken away."""

    champions: dict[str, tuple[int, Any]] = field(default_factory=dict)
    before: dict[str, tuple[int, Any]] = field(default_factory=dict)
    refusals: dict[tuple[str, int], str] = field(default_factory=dict)
    down: bool = False

    @classmethod
    def open(cls) -> Shop:
        popular = Popularity((), ("milk", "nameless", "tea"), (0.5, 0.4, 0.3), 5)
        models = {"recommendation": Habits(), "churn": Spend(), "segments": Spend(), "anomaly": Spend()}
        return cls({name: (1, model) for name, model in {**models, "popularity": popular}.items()})

    def champion(self, name: str) -> Version | None:
        if self.down:
            raise ConnectionError("the registry's disk is gone")
        if name not in self.champions:
            return None
        number = self.champions[name][0]
        return Version(name, number, {"artifact_digests": f"{name}{number}"})

    def previous(self, name: str) -> Version | None:
        return Version(name, self.before[name][0]) if name in self.before else None

    def load(self, version: Version) -> Any:
        model = dict([self.champions[version.name], *filter(None, [self.before.get(version.name)])])[version.version]
        if isinstance(model, Exception):
            raise model
        return model

    def state(self) -> object | None:
        return None

    def note_serving(self, version: Version, /, *, refusal: str | None) -> None:
        self.refusals.pop((version.name, version.version), None)
        if refusal:
            self.refusals[version.name, version.version] = refusal


@contextmanager
def calling(platform: Platform) -> Iterator[httpx.Client]:
    """A caller of a real HTTP server that serves `platform`, in a thread."""
    port = free_port("127.0.0.1")
    app = build_app(lambda: platform)
    # A caller that is busy otherwise finds its connection as it left it.
    options: dict[str, Any] = {"timeout_keep_alive": 60, "log_config": None, "server_header": False, "http": Connection}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        yield client
    server.should_exit = True
    thread.join()


@dataclass
class Street:
    """One home with its Redis, its shelves and its shop."""

    settings: Settings
    client: redis.Redis
    shelves: Shelves
    shop: Shop

    @classmethod
    def open(cls, home: Path, **settings: Any) -> Street:
        made = Settings(home=home, **settings)
        client = connect(made)
        client.flushall()
        return cls(made, client, Shelves(client), Shop.open())

    def key(self, user_id: str) -> str:
        return load_pseudonyms(Layout(self.settings.home)).user_key(user_id)
