"""What churn reads out of the days of the last visits."""

from __future__ import annotations

import numpy as np
import pytest

from models.churn.features import columns

pytestmark = pytest.mark.fast


def of(**held: float) -> dict[str, float]:
    wide, names = columns(np.array([list(held.values())], dtype=np.float64), tuple(held), horizon_days=14)
    return dict(zip(names, wide[0].tolist(), strict=True))


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


def test_a_gap_counts_half_as_much_every_four_gaps():
    told = of(**{f"days_since_purchase_day_{n}": day for n, day in enumerate([1.0, 3.0, 5.0, 7.0, 9.0, 29.0], start=1)})
    assert told["gap_mean_recent"] == (4 * 2 + 20 / 2) / 4.5


def test_who_came_on_one_day_only_has_no_gaps():
    told = of(days_since_purchase_day_1=3.0, days_since_purchase_day_2=float("nan"))
    assert np.isnan([told["gap_median"], told["gap_mean"], told["late_by_mean"]]).all()
    assert (told["gaps_known"], told["gaps_over_horizon"]) == (0.0, 0.0)


def test_one_person_s_columns_are_those_of_a_crowd():
    names = tuple(f"days_since_purchase_day_{n}" for n in range(1, 21))
    crowd = np.random.default_rng(3).integers(1, 9, (50, len(names))).astype(float).cumsum(axis=1)
    crowd[::3, 5:] = np.nan
    crowd[0, 1:] = np.nan
    together, _ = columns(crowd, names, horizon_days=28)
    for one, row in zip(together, crowd, strict=True):
        np.testing.assert_array_equal(columns(row[None], names, horizon_days=28)[0][0], one)
