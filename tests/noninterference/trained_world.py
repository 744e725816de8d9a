"""A world that also learns: a shop of people of every kind, imported, trained on, served and reported."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from aap.config import Settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.features.retrieval import open_retrieval
from aap.infra.paths import Layout
from aap.jobs.publish_features import build_features
from aap.jobs.reports.online_offline_skew import check_consistency
from aap.modeling.catalog import model_classes
from aap.modeling.registry.registry import open_registry
from aap.modeling.train_and_promote import training_settings
from aap.security.api_keys import ApiKeys, Scope
from aap.security.pseudonyms import load_pseudonyms
from aap.serving.context import Platform
from pipelines.retrain import retrain
from tests.noninterference.mixed_shop import CUSTOMERS, Kind, Kinds, kind_of, open_mixed_shop
from tests.shop import CLOSES
from tests.unit.serving.shop_window import calling

__all__ = ["TrainedWorld", "a_clock", "fitted", "lived"]

_SEVERAL = ("recommendations", "churn", "segments", "anomalies")
_TIMING = re.compile(r"aap_request_seconds_(bucket|sum)|_created\b|aap_features_age_seconds")


@dataclass
class TrainedWorld:
    """One home, and what it said while it ran."""

    settings: Settings
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
        return [user for user in CUSTOMERS if kind_of(user) in kinds]

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
        for name, kind in model_classes().items():
            parameters = training.models[name]
            data = kind.examples(door, until=now, as_of=now, parameters=parameters)
            folder = self.settings.home / "fitted" / name
            folder.mkdir(parents=True)
            kind.fit(data, parameters=parameters, seed=training.seed).save(folder)

    def retrain(self) -> None:
        """The whole weekly retrain; every version answers, whatever the gate says of so small a shop."""
        done = retrain(self.settings, as_of=self.settings.now())
        registry = open_registry(self.settings)
        for name in model_classes():
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
        yield at


def fitted(home: Path, redis_url: str, clock: list[datetime], **how: Any) -> TrainedWorld:
    """A world whose models are fitted, and no more."""
    clock[0] = CLOSES
    world = _opened(home, redis_url, **how)
    with _logged(world.log):
        world.take_back(Kind.QUITTER)
        clock[0] += timedelta(hours=1)
        world.fit()
    return world


def lived(home: Path, redis_url: str, clock: list[datetime], **how: Any) -> TrainedWorld:
    """A world in which everything was done that the platform does in a week."""
    clock[0] = CLOSES
    world = _opened(home, redis_url, **how)
    with _logged(world.log):
        world.take_back(Kind.QUITTER)
        for step in (world.retrain, world.serve, world.report):
            clock[0] += timedelta(hours=1)
            step()
    return world


def _opened(home: Path, redis_url: str, *, keys_of: Path | None = None, changed: Kinds = frozenset()) -> TrainedWorld:
    return TrainedWorld(open_mixed_shop(home, redis_url, keys_of=keys_of, changed=changed), changed)


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
