"""Cuts in time, what churn is, the forest against its source, planted anomalies, segment names, and the gate."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from aap.modeling.algorithms.isolation_forest import Forest
from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.catalog import evaluate, model_class, model_classes
from aap.modeling.errors import BadParameters, TooFewRows
from aap.modeling.evaluation.evaluation import Evaluation, Interval
from aap.modeling.promotion_gate import decide
from aap.modeling.temporal_split import global_split, past_cuts
from aap.modeling.training_config import parse_training_settings
from models.anomaly.evaluation import mad_rule
from models.anomaly.synthetic_anomalies import KINDS, plant
from models.churn.explanations import sentences
from models.churn.model import churn_labels
from models.segments.naming import names_of
from tests.unit.modeling.conftest import AS_OF
from tests.unit.modeling.shop import START, Shop, purchases


def test_every_training_label_was_known_at_the_cut():
    split = global_split(AS_OF, horizon_days=28)
    cuts = past_cuts(split.cut, horizon_days=28, count=6, step_days=7)
    assert split.cut + timedelta(days=28) == split.until == AS_OF
    assert len(cuts) == 6
    assert cuts == sorted(cuts)
    assert max(cuts) + timedelta(days=28) == split.cut


def test_churn_labels_ask_only_of_active_people_and_say_who_bought_nothing_after(shop, settings):
    parameters, cut = settings.models["churn"], AS_OF - timedelta(days=60)
    labels = churn_labels(shop, service="churn", cuts=[cut], as_of=AS_OF, parameters=parameters)
    for key, churned in zip(labels["user_key"], labels["churned"], strict=True):
        when = shop.lines.loc[shop.lines["user_key"] == key, "occurred_at"]
        assert ((when > cut - timedelta(days=28)) & (when <= cut)).any()
        assert churned == float(not ((when > cut) & (when <= cut + timedelta(days=28))).any())


def test_what_happens_after_the_cut_does_not_change_the_model_that_is_judged(shop, cases, settings):
    cut = global_split(AS_OF, horizon_days=28).cut
    blind = Shop(shop.lines[shop.lines["occurred_at"] <= cut])
    for name in ("churn", "recommendation", "popularity"):
        case = cases[name]
        seen = case.kind.examples(blind, until=cut, as_of=AS_OF, parameters=case.parameters)
        ours = case.train.table if hasattr(seen, "table") else case.train.data
        theirs = seen.table if hasattr(seen, "table") else seen.data
        assert ours.equals(theirs)


def test_the_forest_scores_as_scikit_learn_does():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(500, 4))
    grown = IsolationForest(n_estimators=50, max_samples=128, random_state=5).fit(values)
    ours = Forest.grow(values, trees=50, rows_per_tree=128, seed=5).score(values)
    assert ours == pytest.approx(-grown.score_samples(values), rel=1e-12)


def test_an_obvious_outlier_scores_highest_and_its_feature_is_the_driver(fitted, cases):
    model, values = fitted["anomaly"], cases["anomaly"].held_out.values.copy()
    column = model.features.index("store_distinct_90d")
    values[0, :] = np.nanmedian(values, axis=0)
    values[0, column] = 500.0
    assert model.drivers(values)[0][0] == "store_distinct_90d"
    assert model.score(values)[0] > np.median(model.score(values))


def test_planted_kinds_change_what_they_say_and_nothing_is_planted_that_features_cannot_show():
    ordinary = np.abs(np.random.default_rng(1).normal(5, 1, size=(200, 3)))
    found = plant(ordinary, features=("basket_count_7d", "store_distinct_90d", "amount_max_90d"), seed=2)
    assert set(found) == {"burst", "many_stores", "mixed_up"} < set(KINDS)
    assert found["burst"][:, 0].min() > 2 * ordinary[:, 0].max() / 6 * 2
    assert np.isin(found["burst"][:, 1:], ordinary[:, 1:]).all()
    assert np.isin(found["mixed_up"], ordinary).all()


def test_the_mad_rule_is_the_largest_robust_distance():
    rule = mad_rule(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 10.0]]))
    assert rule(np.array([[2.0, 0.0]])) == [0.0]
    assert rule(np.array([[2.0 + 1.4826, 0.0]])) == pytest.approx([1.0])
    assert rule(np.array([[np.nan, 1.2533 * 2.0]])) == pytest.approx([1.0])


def test_scaling_puts_the_median_at_zero_and_a_missing_value_there_too():
    values = np.column_stack([np.random.default_rng(3).lognormal(size=999), np.full(999, 4.0)])
    scaling = Scaling.fit(values)
    assert scaling.logged.tolist() == [True, False]
    points = scaling.apply(values)
    assert np.median(points, axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert scaling.apply(np.array([[np.nan, 4.0]])).tolist() == [[0.0, 0.0]]


def test_segments_have_distinct_names_numbers_by_spend_and_shares_that_add_up(fitted):
    model = fitted["segments"]
    assert len(set(model.names)) == len(model.names)
    assert sum(model.shares) == pytest.approx(1.0)
    spend = model.profiles[:, model.features.index("amount_sum_90d")]
    assert spend[0] == spend.max()


def test_segment_names_say_what_differs_even_of_an_unknown_feature_and_when_two_are_alike():
    shifts = np.array([[1.2, 0.0], [0.0, -0.9], [0.0, 0.1], [0.0, 0.2]])
    names = names_of(shifts, features=("amount_sum_90d", "shoe_size"))
    assert names[:3] == ("big spenders", "low shoe_size", "typical")
    assert len(set(names)) == 4


def test_churn_reasons_say_what_the_riskiest_person_did(fitted, cases):
    model, held_out = fitted["churn"], cases["churn"].held_out
    riskiest = int(model.score(held_out.values).argmax())
    reasons = model.reasons(held_out.values)[riskiest]
    away = held_out.data["days_since_last_purchase"].iloc[riskiest]
    assert 1 <= len(reasons) <= 3
    assert any(reason.startswith(f"last visit {away:.0f} days ago") for reason in reasons)


def test_reasons_add_up_columns_of_one_topic_and_leave_out_what_holds_somebody_back():
    values = {"amount_sum_28d": 12.0, "amount_sum_90d": 270.0, "tenure_days": 300.0, "store_distinct_90d": 3.0}
    names, pushes = tuple(values), np.array([0.2, 0.2, 0.3, -0.5])
    assert sentences(names, pushes, values, most=3) == [
        "spend fell from 84 to 12 in four weeks",
        "customer for 300 days",
    ]


def train_and_judge(kind, small, *, days, parameters):
    split = global_split(START + timedelta(days=days), horizon_days=28)
    train = kind.examples(small, until=split.cut, as_of=split.until, parameters=parameters)
    held_out = kind.held_out(small, cut=split.cut, until=split.until, as_of=split.until, parameters=parameters)
    model = kind.fit(train, parameters=parameters, seed=1)
    return evaluate(model, held_out=held_out, train=train, parameters=parameters, seed=1)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_another_shop_of_500_customers_and_ten_thousand_rows_is_trained_on(name, settings):
    lines = purchases(people=500, items=200, days=120, seed=5)
    small = Shop(lines.sample(10_000, random_state=1))
    assert train_and_judge(model_class(name), small, days=120, parameters=settings.models[name]).rows > 0


@pytest.mark.parametrize("name", ["anomaly", "churn", "segments"])
def test_a_shop_with_forty_customers_is_refused_with_a_sentence(name, settings):
    tiny = Shop(purchases(people=40, items=30, days=90, seed=5))
    with pytest.raises(TooFewRows, match=r"found (40|35), need at least (50|100); import more history\.$"):
        train_and_judge(model_class(name), tiny, days=90, parameters=settings.models[name])


def evaluation(headline=0.8, gain=(0.01, 0.05), **more):
    interval = Interval(sum(gain) / 2, *gain)
    return Evaluation("churn", "auc", {"auc": headline, **more}, {"recency": {"auc": 0.7}}, {"recency": interval}, 100)


def test_the_gate_opens_for_a_first_version_that_beats_its_baseline_and_says_so(settings):
    found = decide(evaluation(), None, features=["basket_count_7d"], rules=settings.gate)
    assert found.promote
    assert "Beats recency" in found.reasons[0]
    assert "no champion yet" in found.reasons[-1]


def test_the_gate_opens_for_a_tie_with_a_baseline_and_calls_it_one(settings):
    found = decide(evaluation(gain=(-0.01, 0.01)), None, features=[], rules=settings.gate)
    assert found.promote
    assert "within the noise of recency" in found.reasons[0]


@pytest.mark.parametrize(
    ("candidate", "champion", "features", "why"),
    [
        (evaluation(gain=(-0.05, -0.01)), None, [], "Trails recency"),
        (evaluation(headline=0.49), None, [], "no better than guessing"),
        (evaluation(headline=float("nan")), None, [], "no better than guessing"),
        (evaluation(calibration_error=0.2), None, [], "Calibration error is 0.2000"),
        (evaluation(stability=0.2), None, [], "Stability under resampling is 0.200"),
        (evaluation(), {"auc": 0.9}, [], "below the champion's 0.9000"),
        (evaluation(), None, ["customer_age_years"], "Feature customer_age_years is forbidden"),
    ],
)
def test_the_gate_stays_shut_and_says_why(candidate, champion, features, why, settings):
    found = decide(candidate, champion, features=features, rules=settings.gate)
    assert not found.promote
    assert why in " ".join(found.reasons)


def test_the_gate_does_not_take_average_for_age(settings):
    assert decide(evaluation(), {"auc": 0.81}, features=["average_basket", "coverage_7d"], rules=settings.gate).promote


def test_settings_that_lack_a_key_or_hold_a_wrong_type_are_refused_by_name(settings):
    content = {
        "seed": 1,
        "models": {name: settings.flat(name) for name in settings.models},
        "gate": {**dataclasses.asdict(settings.gate), "forbidden_features": list(settings.gate.forbidden_features)},
    }
    assert parse_training_settings(content).seed == 1
    for change, words in (
        ({"starts": "many"}, "starts='many'"),
        ({"starts": -2}, "starts=-2"),
        ({"k": 5}, "unknown"),
    ):
        broken = {**content, "models": {**content["models"], "segments": {**content["models"]["segments"], **change}}}
        with pytest.raises(BadParameters, match=words):
            parse_training_settings(broken)
