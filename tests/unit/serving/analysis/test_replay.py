"""Replay: an answer is made again from its record bit for bit, or it is said why it can't be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.modeling.errors import CorruptArtifact, UnknownVersion
from aap.modeling.evaluation.ranking import Recommendation
from aap.serving.analysis.replay import Replay, find, replay
from aap.serving.context import Platform
from aap.serving.errors import UnknownPrediction
from aap.serving.inference.catalog_filter import Shelves
from aap.serving.inference.predictor import Predictor
from aap_client.requests import Explained, Filters, Ranked
from aap_client.responses import Outcome
from tests.unit.serving.shop_window import Shop, Spend, Street, Version

RETENTION, PROFILED = Purpose.MARKETING_RETENTION, Purpose.PERSONALIZE_PROFILED


@dataclass
class Archive:
    """The versions of a shop by number, as a registry hands them out."""

    shop: Shop

    def version(self, name: str, version: int) -> Version:
        found = self.shop.champion(name)
        if found is None or found.version != version:
            raise UnknownVersion(f"{name} has no version {version}; see its versions.")
        return found

    def load(self, version: Version) -> Any:
        return self.shop.load(version)


@pytest.fixture
def predictor(platform: Platform) -> Predictor:
    return platform.stores().predictor


@pytest.fixture
def again(street: Street, platform: Platform) -> Callable[..., Replay]:
    def run(prediction_id: str, *, stamp: object = None, **altered: Any) -> Replay:
        platform.records.flush()
        record = find(prediction_id, records=platform.layout.predictions) | altered
        shelves = Shelves(street.shelves.catalogue, stamp=lambda: stamp)
        return replay(
            record, registry=Archive(street.shop), consent=street.shelves, shelves=shelves, now=street.settings.now()
        )

    return run


@pytest.fixture
def asked(street: Street, predictor: Predictor, choose: Callable[..., None]) -> str:
    """A churn answer about a person whose values are no round numbers."""
    choose("yes", RETENTION, PROFILED)
    key = street.key("yes")
    street.shelves.rows[key], street.shelves.purchases[key] = [100 / 3, float("nan")], ["tea"]
    (answer,) = predictor.churn([key], asked=Explained(explain=True), now=street.settings.now())
    assert answer.result is not None
    return answer.prediction_id


def test_every_kind_of_answer_is_made_again_bit_for_bit(
    street: Street, predictor: Predictor, choose: Callable[..., None], again: Callable[..., Replay], asked: str
) -> None:
    choose("yes", Purpose.ANALYTICS_REPORTING)
    now, people = street.settings.now(), [street.key("yes"), street.key("no")]
    ids = [asked]
    ids += [a.prediction_id for a in predictor.segments(people, now=now)]
    ids += [a.prediction_id for a in predictor.anomalies(people, asked=Explained(explain=True), now=now)]
    some = Ranked(2, filters=Filters(departments=("drinks", "dairy")))
    for options in (Ranked(), Ranked(explain=True), some):
        ids += [a.prediction_id for a in predictor.recommendations(people, asked=options, now=now)]
    for prediction in ids:
        found = again(prediction, stamp=None, catalogue=None if prediction in ids[:-2] else "None")
        assert (found.same, found.why_not) == (True, None)
        assert found.computed == found.recorded


def test_why_an_item_is_shown_is_made_again_by_item_ids_whatever_the_catalogue_calls_them_now(
    street: Street,
    predictor: Predictor,
    again: Callable[..., Replay],
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_tea(*_: object, **__: object) -> list[list[Recommendation]]:
        return [[Recommendation("milk", 1.0, "similar_taste", because="tea"), Recommendation("tea", 0.5, "popular")]]

    model = street.shop.champions["recommendation"][1]
    monkeypatch.setattr(model, "recommend", with_tea)
    people, now = [street.key("yes")], street.settings.now()
    (answer,) = predictor.recommendations(people, asked=Ranked(explain=True), now=now)
    assert answer.result is not None
    assert [i.explanation for i in answer.result] == ["Goes with Tea.", "Popular with many customers."]
    found = again(answer.prediction_id)
    assert found.same is True
    assert [i["explanation"] for i in found.computed] == ["Goes with tea.", "Popular with many customers."]
    altered = again(answer.prediction_id, explanations=["Goes with bread.", "Popular with many customers."])
    assert altered.same is False
    assert again(answer.prediction_id, explanations=None).same is True, "as records were before they held sentences"


def test_a_model_that_says_something_else_is_noticed(
    street: Street, again: Callable[..., Replay], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(street.shop.champions["churn"][1], "shift", 1e-12)
    found = again(asked)
    assert found.same is False
    assert found.recorded != found.computed


@pytest.mark.parametrize(
    ("altered", "says"),
    [
        ({"values": [33.0, 2.0]}, "was altered"),
        ({"statuses": [0, 1]}, "was altered"),
        ({"vector_sha256": None}, "can't be trusted"),
        ({"model_sha256": "0" * 64}, "its hash differs"),
        ({"model_version": "9"}, "has no version 9"),
    ],
)
def test_a_record_that_cannot_be_trusted_says_why(
    again: Callable[..., Replay], asked: str, altered: dict[str, Any], says: str
) -> None:
    found = again(asked, **altered)
    assert found.same is None
    assert found.computed is None
    assert says in str(found.why_not)


def test_a_model_whose_files_are_gone_says_so(street: Street, again: Callable[..., Replay], asked: str) -> None:
    street.shop.champions["churn"] = (1, CorruptArtifact("File model.ubj was changed."))
    assert "model.ubj was changed" in str(again(asked).why_not)
    street.shop.champions["churn"] = (2, Spend())
    assert "no version 1" in str(again(asked).why_not)


def test_who_withdrew_is_not_replayed(
    street: Street, choose: Callable[..., None], again: Callable[..., Replay], asked: str
) -> None:
    choose("yes", RETENTION, status=Status.WITHDRAWN, at=street.settings.now())
    found = again(asked)
    assert found.same is None
    assert "withdrawn" in str(found.why_not)


def test_another_catalogue_than_the_filters_were_applied_to_is_said(
    street: Street, predictor: Predictor, again: Callable[..., Replay], asked: str
) -> None:
    now: datetime = street.settings.now()
    some = Ranked(2, filters=Filters(departments=("drinks",)))
    (answer,) = predictor.recommendations([street.key("yes")], asked=some, now=now)
    assert "catalogue" in str(again(answer.prediction_id, stamp="a later one").why_not)


def test_a_varied_list_of_what_is_popular_is_made_again_by_the_catalogue_it_was_sifted_by(
    street: Street, predictor: Predictor, again: Callable[..., Replay]
) -> None:
    (answer,) = predictor.recommendations(
        [street.key("no")], asked=Ranked(most_a_category=1), now=street.settings.now()
    )
    assert answer.outcome is Outcome.DENIED
    found = again(answer.prediction_id)
    assert (found.same, [i["item_id"] for i in found.computed]) == (True, ["milk", "nameless"])
    assert "catalogue" in str(again(answer.prediction_id, stamp="a later one").why_not)


def test_an_id_nobody_gave_is_named(platform: Platform) -> None:
    with pytest.raises(UnknownPrediction, match="'abc'"):
        find("abc", records=platform.layout.predictions)
