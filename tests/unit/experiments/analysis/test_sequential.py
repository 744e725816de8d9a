"""The statistics, simulated: how often they are wrong where nothing is, and how often they find what is there.

Each experiment is looked at fifty times, first when two hundred people are in, and counts as a hit if any look says that
there is a difference. All fifty count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aap.experiments.analysis.sequential import mixture, radius, read_split, split_evidence
from aap.experiments.analysis.treatment_effect import Curve, curve, moments

LOOKS, FIRST = 50, 200
PEOPLE = 2_000
NULLS = 2_000

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def shoppers(effect: float = 0.0, *, people: int = PEOPLE) -> Draw:
    """What people spend, heavy-tailed and with many zeros, and what they spent before, driven by the same taste."""

    def draw(random: np.random.Generator, treated: np.ndarray) -> np.ndarray:
        taste = random.lognormal(0.0, 0.8, people)
        spent = random.poisson(2 * taste) * random.lognormal(1.0, 0.5, people) * (1 + effect * treated)
        before = random.poisson(4 * taste) * random.lognormal(1.0, 0.5, people)
        one = np.ones(people)
        return np.stack([spent, one, before, one], axis=1)

    return draw


def baskets(random: np.random.Generator, treated: np.ndarray) -> np.ndarray:
    """Money and baskets: a ratio whose denominator differs from person to person and goes with the numerator."""
    taste = random.lognormal(0.0, 0.7, PEOPLE)
    counts = [random.poisson(3 * taste).astype(float) for _ in range(2)]
    money = [c * taste * random.lognormal(2.0, 0.5, PEOPLE) for c in counts]
    return np.stack([money[0], counts[0], money[1], counts[1]], axis=1)


def one_experiment(rows: np.ndarray, treated: np.ndarray, *, adjust: bool = True) -> Curve:
    looks = np.linspace(FIRST, len(rows), LOOKS).astype(int)
    ones = np.cumsum(treated)[looks - 1]
    made = moments(rows[~treated], looks - ones), moments(rows[treated], ones)
    return curve([made], error_rate=0.05, tightest_at=len(rows), adjust=adjust)


def hits(draw: Draw, *, experiments: int, seed: int, adjust: bool = True, people: int = PEOPLE) -> tuple[float, float]:
    """The share of experiments in which any of the fifty looks says "different": by the confidence sequence, and by a usual
    95 % interval.
    """
    random, found, naive = np.random.default_rng(seed), 0, 0
    for _ in range(experiments):
        treated = random.random(people) < 0.5
        made = one_experiment(draw(random, treated), treated, adjust=adjust)
        shown = (made.low > 0) | (made.high < 0)
        assert len(shown) == LOOKS
        assert np.isfinite(made.low).all(), "each look counts"
        found += bool(shown.any())
        naive += bool((np.abs(made.difference) > 1.96 * np.sqrt(made.variance)).any())
    return found / experiments, naive / experiments


@pytest.mark.parametrize(
    ("draw", "adjust"),
    [(shoppers(), True), (shoppers(), False), (baskets, True)],
    ids=["spend with CUPED", "spend", "ratio with CUPED"],
)
def test_of_two_thousand_experiments_without_effect_at_most_five_in_a_hundred_ever_show_one_in_fifty_looks(
    draw: Draw, adjust: bool
) -> None:
    always_valid, usual = hits(draw, experiments=NULLS, seed=7, adjust=adjust)
    assert always_valid <= 0.05
    assert usual > 0.15, "a usual interval does not survive fifty looks"


def test_a_lift_of_fifteen_percent_is_found_four_times_in_five_with_five_thousand_people_and_cuped_is_why() -> None:
    power, _ = hits(shoppers(0.15, people=5_000), experiments=300, seed=3, people=5_000)
    without, _ = hits(shoppers(0.15, people=5_000), experiments=300, seed=3, people=5_000, adjust=False)
    assert power >= 0.8
    assert power > without + 0.1


def test_cuped_narrows_the_interval_and_does_not_move_the_estimate() -> None:
    random = np.random.default_rng(5)
    errors = {True: [], False: []}
    for _ in range(300):
        treated = random.random(PEOPLE) < 0.5
        rows = shoppers(0.2)(random, treated)
        truth = 0.2 * 2 * np.exp(0.8**2 / 2) * np.exp(1.0 + 0.5**2 / 2)
        for adjust in (True, False):
            made = one_experiment(rows, treated, adjust=adjust)
            errors[adjust].append(made.difference[-1] - truth)
    spread = {adjust: float(np.std(e)) for adjust, e in errors.items()}
    assert spread[True] < 0.85 * spread[False]
    assert abs(np.mean(errors[True])) < 3 * spread[True] / np.sqrt(300)
    made = one_experiment(rows, treated)
    assert np.isclose(np.sqrt(made.variance[-1]), spread[True], rtol=0.25), "the variance told is the variance there is"
    assert np.isclose(np.sqrt(made.plain_variance[-1]), spread[False], rtol=0.25)


def test_the_moments_up_to_a_look_are_those_of_the_rows_up_to_it() -> None:
    rows = np.random.default_rng(2).normal(1e6, 1.0, (500, 4))
    found = moments(rows, np.array([10, 10, 321, 500]))
    for k, n in enumerate((10, 10, 321, 500)):
        np.testing.assert_allclose(found.mean[k], rows[:n].mean(axis=0))
        np.testing.assert_allclose(found.covariance[k], np.cov(rows[:n].T), rtol=1e-6)


def test_without_a_covariate_a_mean_is_compared_as_anybody_would() -> None:
    random = np.random.default_rng(4)
    treated = random.random(PEOPLE) < 0.3
    rows = shoppers(0.1)(random, treated)
    made = one_experiment(rows, treated, adjust=False)
    a, b = rows[~treated, 0], rows[treated, 0]
    np.testing.assert_allclose(made.difference[-1], b.mean() - a.mean())
    np.testing.assert_allclose(made.variance[-1], a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    np.testing.assert_allclose(made.lift[-1], b.mean() / a.mean() - 1)


def test_the_interval_is_that_of_the_paper_and_tightest_where_it_was_asked_to_be() -> None:
    rho2 = mixture(error_rate=0.05, tightest_at=1_000)
    sigma, t = 2.0, 700.0
    written_out = sigma * np.sqrt(2 * (t * rho2 + 1) / (t**2 * rho2) * np.log(np.sqrt(t * rho2 + 1) / 0.05))
    np.testing.assert_allclose(radius(np.array([sigma**2 / t]), np.array([t]), error_rate=0.05, rho2=rho2), written_out)

    def at_a_thousand(tightest_at: int) -> float:
        other = mixture(error_rate=0.05, tightest_at=tightest_at)
        return float(radius(np.array([1.0]), np.array([1_000.0]), error_rate=0.05, rho2=other)[0])

    assert at_a_thousand(1_000) < min(at_a_thousand(400), at_a_thousand(2_500))


def test_a_growing_share_fools_nobody() -> None:
    """Late people spend more, and more of the late are treated: pooled, a variant that does nothing looks good."""
    random = np.random.default_rng(11)
    pooled, apart = [], []
    for _ in range(200):
        early, late = random.random(1_000) < 0.1, random.random(1_000) < 0.9
        rows = [np.stack([random.lognormal(m, 0.5, 1_000), *[np.ones(1_000)] * 3], axis=1) for m in (0.0, 0.5)]
        strata = [
            (moments(r[~t], np.array([(~t).sum()])), moments(r[t], np.array([t.sum()])))
            for r, t in zip(rows, (early, late), strict=True)
        ]
        together, treated = np.concatenate(rows), np.concatenate([early, late])
        mixed = [moments(together[treated == t], np.array([(treated == t).sum()])) for t in (False, True)]
        settings = {"error_rate": 0.05, "tightest_at": 2_000}
        apart.append(bool(curve(strata, **settings).low[-1] > 0))
        pooled.append(bool(curve([(mixed[0], mixed[1])], **settings).low[-1] > 0))
    assert np.mean(pooled) > 0.9
    assert np.mean(apart) <= 0.05


def looks_at(share: float, *, people: int, experiments: int, seed: int) -> np.ndarray:
    """Counts of two variants at fifty looks, `[experiments, 50, 2]`."""
    per_look = people // LOOKS
    first = np.random.default_rng(seed).binomial(per_look, share, (experiments, LOOKS)).cumsum(axis=1)
    return np.stack([first, np.arange(1, LOOKS + 1) * per_look - first], axis=-1)


def test_a_planted_bug_that_sends_51_in_100_to_one_arm_is_found() -> None:
    evidence = split_evidence(looks_at(0.51, people=100_000, experiments=500, seed=1), np.array([1, 1]))
    assert np.mean(evidence.max(axis=1) >= np.log(1 / 0.001)) >= 0.95
    once = looks_at(0.51, people=120_000, experiments=2_000, seed=1)[:, -1]
    assert np.mean(split_evidence(once, np.array([1, 1])) >= np.log(1 / 0.001)) >= 0.99, (
        "also by one look, a little later"
    )


@pytest.mark.parametrize("weights", [(1, 1), (90, 10)])
def test_a_sound_split_is_blocked_at_most_once_in_a_thousand_however_often_it_is_looked_at(
    weights: tuple[int, int],
) -> None:
    share = weights[0] / sum(weights)
    evidence = split_evidence(looks_at(share, people=100_000, experiments=5_000, seed=2), np.array(weights))
    assert np.mean(evidence.max(axis=1) >= np.log(1 / 0.001)) <= 0.002
    assert np.mean(evidence.max(axis=1) >= np.log(1 / 0.05)) <= 0.05


def test_a_split_is_read_as_it_is_written_beside_an_exposure() -> None:
    assert read_split("a:50,b:0,c:25") == {"a": 50, "c": 25}
    assert read_split("") == {}
