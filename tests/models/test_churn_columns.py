"""What churn reads out of windows that end now."""

from __future__ import annotations

import numpy as np
import pytest

from models.churn_columns import columns

WEEKS = tuple(f"basket_count_{7 * week}d" for week in range(1, 9))


def of(**held: float) -> dict[str, float]:
    wide, names = columns(np.array([list(held.values())], dtype=np.float64), tuple(held), horizon_days=14)
    return dict(zip(names, wide[0].tolist(), strict=True))


def test_weeks_are_told_from_windows_a_week_apart():
    visits = [0, 2, 0, 0, 0, 1, 1, 3]
    told = of(days_since_last_purchase=8.0, **dict(zip(WEEKS, np.cumsum(visits).tolist(), strict=True)))
    assert (told["empty_weeks"], told["longest_empty_weeks"], told["empty_fortnights"]) == (4.0, 3.0, 1.0)
    assert told["weekly_spread"] == pytest.approx(np.std(visits))
    assert told["weeks_beyond_longest"] == pytest.approx(8 / 7 - 3)


def test_lateness_is_days_away_over_the_usual_days_between_visits():
    told = of(days_since_last_purchase=30.0, tenure_days=200.0, basket_count_90d=9.0, basket_count_ever=18.0)
    assert told["lateness_90d"] == pytest.approx(30 / (90 / 9))
    assert told["lateness_ever"] == pytest.approx(30 / ((200 - 30) / 17))
    short = of(days_since_last_purchase=10.0, tenure_days=40.0, basket_count_90d=4.0)
    assert short["lateness_90d"] == pytest.approx(10 / (40 / 4))


def test_a_division_by_nothing_is_missing_and_not_infinite():
    told = of(basket_count_7d=0.0, basket_count_28d=0.0)
    assert np.isnan(told["basket_count_7d_of_28d"])


def test_a_service_without_these_features_gets_none_made_of_them():
    wide, names = columns(np.ones((2, 1)), ("store_distinct_90d",), horizon_days=28)
    assert (wide.shape, names) == ((2, 1), ("store_distinct_90d",))


def test_gaps_between_purchase_days_tell_how_long_somebody_stays_away():
    days = [6.5, 8.5, 12.5, 32.5, 36.5, float("nan")]
    told = of(**{f"days_since_purchase_day_{i}": day for i, day in enumerate(days, start=1)})
    assert [told[f"gap_{what}"] for what in ("median", "longest", "mean")] == [4.0, 20.0, 30 / 4]
    assert told["gap_spread"] == pytest.approx(np.std([2, 4, 20, 4]))
    assert (told["gaps_known"], told["gaps_over_horizon"], told["gap_days_over_horizon"]) == (4.0, 1.0, 20.0 - 14)
    assert told["late_by_p90"] == pytest.approx(6.5 / 20)
    # one gap was longer than the 6.5 days away, and one of those longer than 14 more
    assert told["gaps_as_long_that_went_on"] == pytest.approx((0 + 0.4) / (1 + 2))
    assert told["gap_mean_recent"] < told["gap_mean"], "the newest gaps were short"


def test_who_came_on_one_day_only_has_no_gaps():
    told = of(days_since_purchase_day_1=3.0, days_since_purchase_day_2=float("nan"))
    assert np.isnan([told["gap_median"], told["gap_mean"], told["late_by_mean"]]).all()
    assert (told["gaps_known"], told["gaps_over_horizon"]) == (0.0, 0.0)


def test_one_person_s_columns_are_those_of_a_crowd():
    names = (*(f"days_since_purchase_day_{n}" for n in range(1, 21)), "days_since_last_purchase", *WEEKS)
    crowd = np.random.default_rng(3).integers(1, 9, (50, len(names))).astype(float).cumsum(axis=1)
    crowd[::3, 5:20] = np.nan
    crowd[0, 1:20] = np.nan
    together, _ = columns(crowd, names, horizon_days=28)
    for one, row in zip(together, crowd, strict=True):
        np.testing.assert_array_equal(columns(row[None], names, horizon_days=28)[0][0], one)
