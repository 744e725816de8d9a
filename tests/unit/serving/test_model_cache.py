"""The models in use: a new champion is swapped in only when it works, and never in the middle of a call."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from aap.modeling.errors import CorruptArtifact
from aap.serving.errors import NoModel
from aap.serving.model_cache import ModelsInUse
from tests.unit.serving.shop_window import Shop, Spend
from tests.waiting import until


@pytest.fixture
def shop() -> Shop:
    return Shop.open()


@pytest.fixture
def models(shop: Shop) -> ModelsInUse:
    made = ModelsInUse(lambda: shop)
    made.refresh()
    return made


def test_champions_are_loaded_and_a_new_one_takes_over(shop: Shop, models: ModelsInUse) -> None:
    begun = models.get("churn")
    shop.champions["churn"] = (2, Spend(shift=0.1))
    assert models.refresh() == ["churn"]
    assert (begun.version, models.get("churn").version) == ("1", "2")
    assert models.refresh() == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (CorruptArtifact("A file of churn version 2 was altered."), "was altered"),
        (OSError("disk gone"), "disk gone"),
        (Spend(shift=float("nan")), "a score is not a number"),
    ],
)
def test_a_champion_that_does_not_work_leaves_the_old_one_in_use(
    shop: Shop, models: ModelsInUse, broken: object, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.champions["churn"] = (2, broken)
    assert models.refresh() == []
    assert models.get("churn").version == "1"
    assert models.missing() == {}
    assert says in caplog.text
    assert "version 1 stays in use" in caplog.text
    shop.champions["churn"] = (3, Spend())
    assert models.refresh() == ["churn"]


def test_a_version_that_failed_for_good_is_not_tried_again(shop: Shop, models: ModelsInUse) -> None:
    tries = 0

    class Counting(Spend):
        def score(self, values: np.ndarray) -> np.ndarray:
            nonlocal tries
            tries += 1
            return np.full(len(values), 7.0)

    shop.champions["churn"] = (2, Counting())
    for _ in range(3):
        models.refresh()
    assert tries == 1


def test_a_registry_that_is_down_takes_no_model_away(shop: Shop, models: ModelsInUse) -> None:
    shop.down = True
    models.refresh()
    assert models.get("churn").version == "1"
    fresh = ModelsInUse(lambda: shop)
    fresh.refresh()
    with pytest.raises(NoModel, match="the model registry can't be asked"):
        fresh.get("churn")


def test_a_champion_that_is_taken_away_stops_answering(shop: Shop, models: ModelsInUse) -> None:
    del shop.champions["churn"]
    models.refresh()
    with pytest.raises(NoModel, match="no champion"):
        models.get("churn")
    assert list(models.missing()) == ["churn"]


def test_the_thread_takes_up_a_new_champion_by_itself(shop: Shop) -> None:
    models = ModelsInUse(lambda: shop, poll_s=0.02)
    models.start()
    shop.champions["churn"] = (2, Spend())
    until(lambda: models.versions().get("churn") == "2")
    models.stop()
    assert models.versions()["churn"] == "2"


def test_the_registry_is_told_why_a_version_is_refused_and_when_it_goes_live_after_all(
    shop: Shop, models: ModelsInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.champions["churn"] = (2, CorruptArtifact("File model.ubj was changed."))
    models.refresh()
    assert shop.refusals == {("churn", 2): "File model.ubj was changed"}
    shop.champions["churn"] = (2, Spend())
    models.refresh()
    assert models.get("churn").version == "1", "it is not tried again at once"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    models.refresh()
    assert models.get("churn").version == "2", "its files were restored"
    assert shop.refusals == {}


def test_a_process_that_starts_with_a_bad_champion_answers_with_the_one_before(shop: Shop) -> None:
    shop.before["churn"] = (1, Spend())
    shop.champions["churn"] = (2, Spend(shift=float("nan")))
    told: list[tuple[str, str, bool]] = []
    fresh = ModelsInUse(lambda: shop, names=["churn"], told=lambda *what: told.append(what))
    fresh.refresh()
    assert fresh.get("churn").version == "1"
    assert told == [("churn", "2", False), ("churn", "1", True)]
    fresh.refresh()
    assert fresh.get("churn").version == "1"


def test_the_registry_is_asked_again_only_once_something_was_written_there(shop: Shop) -> None:
    asked, state = Counter[str](), ["first"]

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(shop, name)

        def state(self) -> str:
            return state[0]

        def champion(self, name: str) -> Any:
            asked[name] += 1
            return shop.champion(name)

    models = ModelsInUse(Counting, names=("churn",), poll_s=0.01)
    models.start()
    try:
        until(lambda: asked["churn"] == 2)  # once to load it, once to see that it is the one
        time.sleep(0.1)
        assert asked["churn"] == 2
        shop.champions["churn"], state[0] = (2, Spend(shift=0.1)), "second"
        until(lambda: models.get("churn").version == "2")
    finally:
        models.stop()
