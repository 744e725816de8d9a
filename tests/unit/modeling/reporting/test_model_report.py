"""The report: every model at one cut, in the shape that others read."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from aap.modeling.reporting.model_report import report
from tests.unit.modeling.conftest import AS_OF


@pytest.fixture(scope="module")
def found(shop, settings):
    told: list[str] = []
    made = report(shop, settings=settings, cut=AS_OF - timedelta(days=28), weeks=1, progress=told.append)
    assert told == [
        "recommendation",
        *(
            "churn in 14 days",
            "churn in 14 days, 1 earlier weeks",
            "churn in 28 days",
            "churn in 28 days, 1 earlier weeks",
        ),
        *("segments", "anomaly", "event_anomaly", "session_anomaly"),
    ]
    return json.loads(json.dumps(made, allow_nan=False))


def test_recommendation_says_any_and_new_products_beside_every_baseline(found):
    anything, new = found["recommendation"]["any"], found["recommendation"]["new"]
    assert {"popularity", "personal", "frequency_and_recency", "als"} == set(anything["baselines"])
    assert {"popularity", "als"} == set(new["baselines"])
    for part in (anything, new):
        assert part["interval"][0] <= part["ndcg10"] <= part["interval"][1]


def test_churn_says_both_horizons_beside_recency_and_logistic_regression(found):
    assert set(found["churn"]) == {"14", "28"}
    for told in found["churn"].values():
        assert set(told["baselines"]) == {"recency", "logistic"}
        assert told["interval"][0] <= told["auc"] <= told["interval"][1]
        assert 0 <= told["ece"] <= 1
        assert told["weeks"]["cuts"] == 1
        assert told["weeks"]["gain"] == pytest.approx(told["weeks"]["auc"] - told["weeks"]["logistic"])
    assert found["churn"]["14"]["churn_rate"] > found["churn"]["28"]["churn_rate"]


def test_segments_and_anomaly_are_told_by_their_short_names(found):
    assert {"k", "ari", "silhouette", "baselines"} <= set(found["segments"])
    assert {"auc", "ap", "baselines"} <= set(found["anomaly"])
    assert set(found["segments"]["baselines"]["rfm_quantiles"]) == {"silhouette", "ari"}
