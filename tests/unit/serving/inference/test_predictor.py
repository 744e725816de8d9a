"""The predictor: who is answered from what, and who is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.infra.code_version import code_revision
from aap.serving.context import Platform
from aap.serving.errors import FeaturesDiffer, NoModel
from aap.serving.inference.predictor import FLAG, Predictor
from aap_client.requests import Context, Explained, Filters, Ranked
from tests.unit.serving.shop_window import FEATURES, Street

PROFILED, IMPROVE = Purpose.PERSONALIZE_PROFILED, Purpose.FUNCTIONAL_SERVICE_IMPROVE
RETENTION, REPORTING = Purpose.MARKETING_RETENTION, Purpose.ANALYTICS_REPORTING


@pytest.fixture
def predictor(platform: Platform) -> Predictor:
    return platform.stores().predictor


@pytest.fixture
def now(street: Street) -> datetime:
    return street.settings.now()


def records(platform: Platform) -> list[dict[str, Any]]:
    platform.records.flush()
    files = sorted(platform.layout.predictions.rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def exposures(platform: Platform) -> list[dict[str, Any]]:
    platform.exposures.flush()
    return [row for f in platform.layout.exposures.rglob("*.parquet") for row in pq.read_table(f).to_pylist()]


def test_each_person_is_answered_from_what_they_allow(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", RETENTION)
    choose("no", RETENTION)
    choose("no", RETENTION, status=Status.WITHDRAWN, at=now)
    choose("new", RETENTION)
    choose("old", RETENTION)
    people = [street.key(u) for u in ("yes", "no", "new", "stranger", "old")]
    street.shelves.rows = {person: [80.0, 3.0] for person in people if person != street.key("new")}
    street.shelves.expired = {people[4]}
    answers = predictor.churn(people, now=street.settings.now())
    assert [a.outcome for a in answers] == ["answered", "denied", "not_found", "denied", "expired"]
    assert [a.consent.reason for a in answers] == ["granted", "withdrawn", "granted", "no_record", "granted"]
    assert answers[0].result is not None
    assert answers[0].result.probability == 0.8
    assert [a.result for a in answers[1:]] == [None] * 4
    assert {(a.model.name, a.model.version, a.consent.purpose) for a in answers} == {("churn", "1", RETENTION)}
    assert len({a.prediction_id for a in answers}) == 5


def test_segments_and_anomalies_answer_in_their_own_terms(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", REPORTING)
    key = street.key("yes")
    street.shelves.rows[key] = [80.0, 3.0]
    segment = predictor.segments([key], now=now)[0].result
    anomaly = predictor.anomalies([key], now=now)[0].result
    assert segment is not None
    assert (segment.segment, segment.name, segment.distance) == (1, "big", 0.5)
    assert anomaly is not None
    assert (anomaly.score, anomaly.threshold, anomaly.is_anomaly) == (0.8, 0.5, True)
    assert anomaly.drivers is None
    explained = predictor.anomalies([key], asked=Explained(explain=True), now=now)[0].result
    assert explained is not None
    assert explained.drivers == (FEATURES[0],)


def test_recommendations_are_popular_for_who_said_no_and_personal_for_who_said_yes(
    street: Street, platform: Platform, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", PROFILED)
    choose("new", PROFILED)
    people = [street.key(u) for u in ("yes", "no", "new")]
    street.shelves.purchases = {people[0]: ["tea"], people[1]: ["bread"]}
    yes, no, new = predictor.recommendations(people, asked=Ranked(2), now=now)
    assert yes.result is not None
    assert [(i.item_id, i.name) for i in yes.result] == [("tea", "Tea")]
    assert no.result is not None
    assert [(i.item_id, i.name) for i in no.result] == [("milk", "Milk"), ("nameless", None)]
    assert no.model.name == "popularity"
    assert no.experiment is None
    assert no.consent.reason == "no_record"
    assert new.result is not None
    assert [i.reason for i in new.result] == ["popular"] * 2
    assert new.outcome == "not_found"
    assert new.experiment is None
    assert yes.experiment is not None
    assert (yes.experiment.flag, yes.experiment.variant) == (FLAG, "buy_again")
    assert yes.experiment.reason == "consent_not_granted"
    assert exposures(platform) == []


def test_the_very_first_record_says_which_code_answered(
    street: Street, platform: Platform, predictor: Predictor, now: datetime
) -> None:
    predictor.churn([street.key("no")], now=now)
    assert [row["code_revision"] for row in records(platform)] == [code_revision(Path(__file__).resolve().parents[4])]


def test_asked_to_explain_it_says_why_each_item_is_there_also_to_who_said_no(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", PROFILED)
    people = [street.key(u) for u in ("yes", "no")]
    street.shelves.purchases = {people[0]: ["tea"]}
    told = predictor.recommendations(people, asked=Ranked(1, strategy="discover", explain=True), now=now)
    assert [i.explanation for answer in told for i in answer.result or ()] == [
        "To the taste of similar customers.",
        "Popular with many customers.",
    ]
    plain = predictor.recommendations(people, asked=Ranked(1, strategy="discover"), now=now)
    assert [i.explanation for answer in plain for i in answer.result or ()] == [None, None]


def test_the_variant_chooses_the_strategy_and_is_exposed_once(
    street: Street, platform: Platform, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    ids = [f"p{i}" for i in range(16)]
    for user in ids:
        choose(user, PROFILED, IMPROVE)
    people = [street.key(u) for u in ids]
    street.shelves.purchases = {p: ["tea"] for p in people}
    first = predictor.recommendations(people, asked=Ranked(3), now=now)
    again = predictor.recommendations(people[::-1], asked=Ranked(3), now=now)[::-1]
    shown = {"buy_again": ["tea"], "discover": ["bread", "milk"]}
    for before, after in zip(first, again, strict=True):
        assert before.experiment is not None
        assert after.experiment is not None
        assert before.result is not None
        assert before.experiment.variant == after.experiment.variant
        assert [i.item_id for i in before.result] == shown[before.experiment.variant]
        assert (before.experiment.reason, after.experiment.reason) == ("split", "sticky")
    assert {a.experiment.variant for a in first if a.experiment} == set(shown)
    assert sorted(e["user_key"] for e in exposures(platform)) == sorted(people)


def test_an_answer_does_not_depend_on_who_else_is_asked_about(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", PROFILED, RETENTION)
    people = [street.key(u) for u in ("yes", "no", "other")]
    street.shelves.purchases = {p: ["tea"] for p in people}
    street.shelves.rows = {p: [40.0, 1.0] for p in people}
    alone, together = (predictor.churn(p, now=now)[0].result for p in (people[:1], people))
    assert alone == together
    alone_items, together_items = (
        predictor.recommendations(p, asked=Ranked(3), now=now)[0].result for p in (people[:1], people)
    )
    assert alone_items == together_items


def test_what_a_person_who_said_no_did_changes_no_byte_of_any_answer(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", PROFILED, RETENTION)
    yes, no = street.key("yes"), street.key("no")

    def answers() -> bytes:
        found = [*predictor.churn([yes, no], now=now), *predictor.recommendations([yes, no], asked=Ranked(3), now=now)]
        return msgspec.json.encode([(a.consent, a.outcome, a.result) for a in found])

    street.shelves.rows, street.shelves.purchases = {yes: [40.0, 1.0]}, {yes: ["tea"]}
    without = answers()
    street.shelves.rows[no], street.shelves.purchases[no] = [99.0, 9.0], ["bread"]
    assert answers() == without


def test_a_model_trained_on_other_features_is_not_used(street: Street, predictor: Predictor, now: datetime) -> None:
    street.shelves.features = (*FEATURES[::-1], "new_one")
    with pytest.raises(FeaturesDiffer, match=r"churn version 1.*new: \['new_one'\].*aap retrain"):
        predictor.churn([street.key("yes")], now=now)


def test_without_a_champion_the_sentence_names_the_command(
    street: Street, platform: Platform, predictor: Predictor, now: datetime
) -> None:
    del street.shop.champions["churn"]
    platform.models.refresh()
    with pytest.raises(NoModel, match="it has no champion; run `aap train` or `aap retrain`"):
        predictor.churn([street.key("yes")], now=now)


def test_a_prediction_can_be_made_again_from_its_record(
    street: Street, platform: Platform, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", RETENTION, PROFILED)
    key = street.key("yes")
    street.shelves.rows[key], street.shelves.purchases[key] = [33.3, 2.0], ["tea"]
    churn, items = predictor.churn([key], now=now)[0], predictor.recommendations([key], asked=Ranked(2), now=now)[0]
    rows = {row["prediction_id"]: row for row in records(platform)}
    row = rows[churn.prediction_id]
    model = street.shop.champions["churn"][1]
    assert tuple(row["features"]) == FEATURES
    assert row["statuses"] == [0, 0]
    assert row["time"] == now
    assert (row["model"], row["model_version"], row["user_key"]) == ("churn", "1", key)
    assert len(row["model_sha256"]) == 64
    assert msgspec.json.decode(row["answer"])["probability"] == model.score(np.array([row["values"]]))[0]
    row = rows[items.prediction_id]
    assert (row["sequences"], row["variant"], row["flag"]) == ([["tea"], ["tea"]], "buy_again", FLAG)
    assert (row["asked"], row["strategy"]) == ('{"n":2}', "buy_again")
    assert row["answer"].encode() == msgspec.json.encode(items.result)


def test_a_denied_answer_is_recorded_without_the_person(
    street: Street, platform: Platform, predictor: Predictor, now: datetime
) -> None:
    key = street.key("no")
    street.shelves.rows[key], street.shelves.purchases[key] = [99.0, 9.0], ["bread"]
    predictor.churn([key], now=now)
    predictor.recommendations([key], asked=Ranked(1), now=now)
    found = records(platform)
    assert len(found) == 2
    assert {r["consent_reason"] for r in found} == {"no_record"}
    assert key not in str(found)
    assert all(r["values"] is None and r["sequences"] is None for r in found)


def test_a_grant_that_expired_denies(street: Street, predictor: Predictor, choose: Callable[..., None]) -> None:
    choose("yes", RETENTION, at=street.settings.now() - timedelta(days=500))
    answer = predictor.churn([street.key("yes")], now=street.settings.now())[0]
    assert (answer.outcome, answer.consent.reason) == ("denied", "expired")


def test_filters_context_and_strategy_shape_the_list(
    street: Street, predictor: Predictor, choose: Callable[..., None], now: datetime
) -> None:
    choose("yes", PROFILED)
    yes, no = street.key("yes"), street.key("no")
    street.shelves.purchases[yes] = ["tea"]

    def shown(user: str, **asked: Any) -> list[str]:
        (answer,) = predictor.recommendations([user], asked=Ranked(**asked), now=now)
        assert answer.result is not None
        return [i.item_id for i in answer.result]

    assert shown(yes, strategy="discover") == ["bread", "milk"]
    assert shown(yes, n=1, strategy="discover", filters=Filters(departments=("dairy", "drinks"))) == ["milk"]
    assert shown(yes, strategy="discover", filters=Filters(exclude_items=("bread",))) == ["milk"]
    assert shown(yes, strategy="discover", filters=Filters(departments=("dairy",), categories=("none",))) == []
    assert shown(yes, strategy="discover", context=Context(basket=("bread",))) == ["milk"]
    assert shown(no, n=1, context=Context(basket=("milk",)), filters=Filters(exclude_items=("nameless",))) == ["tea"]
    assert shown(no) == ["milk", "nameless", "tea"]
    assert shown(no, most_a_category=1) == ["milk", "nameless"], (
        "tea is a beverage as milk is; nameless has no category"
    )
    assert shown(no, most_a_category=1, context=Context(basket=("milk",))) == ["nameless", "tea"]
    answers = predictor.recommendations([yes], asked=Ranked(strategy="discover"), now=now)
    assert answers[0].experiment is None, "who asks for a strategy is not in the experiment"


def test_items_like_an_item_need_nobodys_consent(predictor: Predictor) -> None:
    tea, _ = predictor.similar(["tea", "milk"], n=1)
    assert (tea.item_id, [i.name for i in tea.result], tea.model.name) == ("tea", ["Bread"], "recommendation")
