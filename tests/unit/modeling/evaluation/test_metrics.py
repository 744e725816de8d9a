"""Metrics against independent implementations, and the laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    ndcg_score,
    rand_score,
    roc_auc_score,
)

from aap.modeling.algorithms.platt_scaling import platt
from aap.modeling.evaluation.metrics import (
    adjusted_rand,
    auc,
    average_popularity,
    average_precision,
    brier,
    coverage,
    expected_calibration_error,
    ndcg_at_k,
    paired_bootstrap,
    recall_at_k,
    reliability,
    silhouettes,
)

pytestmark = pytest.mark.fast

scores_and_labels = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.integers(0, 8).map(float)), arrays(np.bool_, n, elements=st.booleans())
    )
)


def test_ndcg_is_what_scikit_learn_says_when_the_whole_catalogue_is_ranked():
    generator = np.random.default_rng(0)
    scores, relevance = generator.random((40, 25)), generator.random((40, 25)) < 0.2
    relevance[:, 0] = True
    ranked = np.argsort(-scores, axis=1)[:, :10]
    hits = np.take_along_axis(relevance, ranked, axis=1)
    ours = ndcg_at_k(hits, relevant=relevance.sum(axis=1)).mean()
    assert ours == pytest.approx(ndcg_score(relevance, scores, k=10), rel=1e-12)


def test_a_perfect_list_has_ndcg_and_recall_one_even_when_fewer_items_than_places_are_relevant():
    hits = np.array([[True, True, False, False], [True, True, True, True]])
    assert ndcg_at_k(hits, relevant=np.array([2, 9])).tolist() == [1.0, 1.0]
    assert recall_at_k(hits, relevant=np.array([2, 9])).tolist() == [1.0, 1.0]


@given(st.lists(st.booleans(), min_size=2, max_size=10), st.integers(0, 8))
def test_moving_a_hit_up_never_lowers_ndcg(hits, place):
    place = min(place, len(hits) - 2)
    better = list(hits)
    if hits[place + 1] and not hits[place]:
        better[place], better[place + 1] = True, False
    relevant = np.array([max(1, sum(hits))])
    assert ndcg_at_k(np.array([better]), relevant=relevant) >= ndcg_at_k(np.array([hits]), relevant=relevant)


@given(scores_and_labels)
def test_auc_and_average_precision_are_what_scikit_learn_says(drawn):
    scores, labels = drawn
    if labels.all() or not labels.any():
        assert np.isnan(auc(labels, scores))
        return
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(scores_and_labels)
def test_auc_of_the_opposite_score_is_the_complement(drawn):
    scores, labels = drawn
    if 0 < labels.sum() < len(labels):
        assert auc(labels, scores) + auc(labels, -scores) == pytest.approx(1.0, abs=1e-12)


def test_brier_is_what_scikit_learn_says():
    generator = np.random.default_rng(1)
    labels, said = generator.random(200) < 0.3, generator.random(200)
    assert brier(labels, said) == pytest.approx(brier_score_loss(labels, said), rel=1e-12)


def test_calibration_error_is_zero_for_the_truth_and_the_bias_for_a_constant_lie():
    labels = np.arange(1_000) % 4 == 0
    assert expected_calibration_error(labels, np.full(1_000, 0.25), bins=10) == pytest.approx(0.0, abs=0.01)
    assert expected_calibration_error(labels, np.full(1_000, 0.65), bins=10) == pytest.approx(0.40, abs=0.01)


def test_silhouettes_are_the_textbook_definition():
    generator = np.random.default_rng(2)
    points, groups = generator.normal(size=(30, 2)), np.arange(30) % 3
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = []
    for row in range(30):
        own = (groups == groups[row]) & (np.arange(30) != row)
        a = distances[row, own].mean()
        b = min(distances[row, groups == g].mean() for g in range(3) if g != groups[row])
        expected.append((b - a) / max(a, b))
    assert silhouettes(points, groups) == pytest.approx(expected, abs=1e-9)
    assert np.isnan(silhouettes(points, np.zeros(30))).all()


def test_adjusted_rand_ignores_names_and_is_lower_than_the_unadjusted_index_for_chance():
    generator = np.random.default_rng(3)
    one, other = generator.integers(0, 4, 400), generator.integers(0, 4, 400)
    assert adjusted_rand(one, (one + 1) % 4) == 1.0
    assert abs(adjusted_rand(one, other)) < 0.02 < rand_score(one, other)


def test_the_bootstrap_interval_covers_a_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        sample = generator.normal(1.0, 2.0, size=80)
        interval = paired_bootstrap(lambda d, s=sample: float(s[d].mean()), units=80, seed=trial, draws=200)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_the_bootstrap_is_a_function_of_its_seed(seed):
    sample = np.arange(20.0)
    intervals = {paired_bootstrap(lambda d: float(sample[d].mean()), units=20, seed=seed, draws=50) for _ in range(2)}
    assert len(intervals) == 1


def test_coverage_and_popularity_are_of_what_is_shown():
    lists = [["a", "b"], ["a", "c"], []]
    assert coverage(lists, catalogue_size=6) == 3 / 6
    popularity = {"a": 0.5, "b": 0.1}
    by_hand = sum(sum(popularity.get(i, 0.0) for i in row) / len(row) for row in lists if row) / 2
    assert average_popularity(lists, popularity=popularity) == pytest.approx(by_hand)


def test_the_reliability_curve_is_scikit_learns_of_equal_counts():
    generator = np.random.default_rng(4)
    said = generator.random(1_000)
    labels = generator.random(1_000) < said**2
    happened, mean = calibration_curve(labels, said, n_bins=10, strategy="quantile")
    ours = reliability(labels, said, bins=10)
    assert ours[0] == pytest.approx(mean)
    assert ours[1] == pytest.approx(happened)
    assert ours[2].sum() == 1_000


def test_platt_scaling_finds_the_slope_and_intercept_that_were_put_in():
    generator = np.random.default_rng(5)
    margin = generator.normal(size=20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-(0.7 * margin - 0.4)))).astype(float)
    found = LogisticRegression(C=np.inf).fit(margin[:, None], labels)
    assert platt(margin, labels) == pytest.approx((found.coef_[0, 0], found.intercept_[0]), abs=1e-3)
    assert platt(margin, np.ones(20_000)) == (1.0, 0.0)
    assert platt(-margin, labels) == (1.0, 0.0)
