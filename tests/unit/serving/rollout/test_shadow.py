"""Shadow: a challenger sees what the champion saw, and nothing it does reaches anybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aap.consent.purposes import Purpose
from aap.serving.context import Platform
from aap.serving.model_cache import InUse, ModelsInUse
from aap.serving.rollout.shadow import Challengers, Compared, Shadow, read_shadow
from aap_client.requests import Ranked
from tests.unit.serving.shop_window import Habits, Shop, Spend, Street, Version
from tests.waiting import PATIENCE_S

NOW = datetime(2024, 6, 1, tzinfo=UTC)
CHAMPION = InUse("churn", "1", "hash", Spend())


@dataclass
class Rivals(Shop):
    """A registry with challengers."""

    rivals: dict[str, Any] = field(default_factory=dict)

    def challenger(self, name: str) -> Version | None:
        return Version(name, 2) if name in self.rivals else None

    def load(self, version: Version) -> Any:
        return self.rivals[version.name] if version.version == 2 else super().load(version)


def challengers(**rivals: Any) -> ModelsInUse:
    made = ModelsInUse(lambda: Challengers(Rivals(rivals=rivals)))
    made.refresh()
    return made


def scores(values: np.ndarray) -> Callable[[Any], Any]:
    return lambda model: model.score(values).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shadow"


def compared(shadow: Shadow, folder: Path) -> Compared:
    shadow.close(now=NOW)
    (found,) = read_shadow(folder)
    return found


def test_differences_and_times_are_kept_as_sums(folder: Path) -> None:
    shadow = Shadow(challengers(churn=Spend(shift=0.25)), folder=folder, share=1.0)
    for spent in (10.0, 90.0):
        shadow.offer(CHAMPION, scores(np.array([[spent, 1.0], [20.0, 1.0]])))
    found = compared(shadow, folder)
    assert (found.model, found.champion, found.challenger) == ("churn", "1", "2")
    assert (found.calls, found.people, found.errors, found.dropped) == (2, 4, 0, 0)
    assert found.difference == pytest.approx((0.25 + 0.25 + 0.10 + 0.25) / 4)
    assert found.largest == pytest.approx(0.25)
    assert found.champion_ms is not None
    assert found.challenger_ms is not None


def test_a_full_queue_drops_the_copy_counts_it_and_never_waits(folder: Path) -> None:
    gate = threading.Event()
    shadow = Shadow(challengers(churn=Spend()), folder=folder, share=1.0, room=3)

    def slow(model: Any) -> Any:
        gate.wait(PATIENCE_S)
        return model.score(np.zeros((1, 2))).tolist()

    began = time.monotonic()
    for _ in range(50):
        shadow.offer(CHAMPION, slow)
    assert time.monotonic() - began < PATIENCE_S / 2, "not one of them waited for the gate"
    gate.set()
    found = compared(shadow, folder)
    assert 46 <= found.dropped <= 47, "three wait, and one may be at work"
    assert found.calls + found.dropped == 50


@pytest.mark.parametrize("broken", [Spend(features=("another",)), object(), Spend(shift=float("nan"))])
def test_a_challenger_that_fails_is_counted_and_the_next_copy_is_taken(folder: Path, broken: Any) -> None:
    rivals = challengers(churn=Spend())
    rivals._held["churn"] = InUse("churn", "2", "hash", broken)
    shadow = Shadow(rivals, folder=folder, share=1.0)
    for _ in range(3):
        shadow.offer(CHAMPION, scores(np.zeros((1, 2))))
    found = compared(shadow, folder)
    assert (found.calls, found.errors, found.people) == (3, 3, 0)
    assert found.difference is None


def test_without_a_share_or_a_challenger_nothing_is_copied(folder: Path) -> None:
    for shadow in (
        Shadow(challengers(churn=Spend()), folder=folder, share=0.0),
        Shadow(challengers(), folder=folder, share=1.0),
    ):
        shadow.offer(CHAMPION, scores(np.zeros((1, 2))))
        shadow.close(now=NOW)
    assert read_shadow(folder) == []


@pytest.fixture
def shadowed(street: Street) -> Platform:
    """A platform whose every call is copied to challengers that answer otherwise."""
    settings = street.settings.model_copy(update={"shadow": 1.0})
    rivals = {"churn": Spend(shift=0.5), "segments": Spend(), "recommendation": Habits()}
    registry = Rivals(street.shop.champions, rivals=rivals)
    made = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: registry)
    made.models.refresh()
    made.challengers.refresh()
    return made


def test_answers_are_the_champions_and_only_people_who_allow_it_are_copied(
    street: Street, shadowed: Platform, choose: Callable[..., None]
) -> None:
    choose("yes", Purpose.MARKETING_RETENTION, Purpose.PERSONALIZE_PROFILED, Purpose.ANALYTICS_REPORTING)
    people, now = [street.key("yes"), street.key("no")], street.settings.now()
    street.shelves.rows = {p: [40.0, 1.0] for p in people}
    street.shelves.purchases = {p: ["tea"] for p in people}
    predictor = shadowed.stores().predictor
    answers = predictor.churn(people, now=now)
    predictor.segments(people, now=now)
    predictor.recommendations(people, asked=Ranked(2), now=now)
    shadowed.stop()
    assert answers[0].result is not None
    assert (answers[0].result.probability, answers[0].model.version) == (0.4, "1")
    found = {one.model: one for one in read_shadow(shadowed.layout.shadow)}
    assert {name: one.people for name, one in found.items()} == {"churn": 1, "segments": 1, "recommendation": 1}
    assert found["churn"].difference == pytest.approx(0.5)
    assert found["segments"].difference == found["recommendation"].difference == 0.0
    kept = b"".join(f.read_bytes() for f in shadowed.layout.shadow.rglob("*.parquet"))
    assert not [p for p in people if p.encode() in kept]
