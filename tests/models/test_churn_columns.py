"""What churn reads out of windows that end now."""

from __future__ import annotations

import numpy as np
import pytest

from models.churn_columns import columns

WEEKS = tuple(f"basket_count_{7 * week}d" for week in range(1, 9))


def of(**held: float) -> dict[str, float]:
    wide, names = columns(np.array([list(held.values())], dtype=np.float64), tuple(held))
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
    wide, names = columns(np.ones((2, 1)), ("store_distinct_90d",))
    assert (wide.shape, names) == ((2, 1), ("store_distinct_90d",))
