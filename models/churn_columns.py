"""What churn reads out of its features beside the features themselves: lateness, gaps and trends. Pure arithmetic.

Counts over windows that end now differ by what happened between their tails, so windows a week apart tell how many visits
each week had, and with that how regular somebody is. What a shop's service doesn't have is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["columns"]

_SINCE, _TENURE = "days_since_last_purchase", "tenure_days"
_WEEKS = tuple(f"basket_count_{7 * week}d" for week in range(1, 9))
_SPANS = (28, 90, 180)
_TRENDS = ((7, 28), (14, 56), (28, 90), (90, 180))


def columns(values: np.ndarray, features: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """`values` float64 `[n, n_features]` with more columns behind, and the names of all; NaN where undefined."""
    held = {name: values[:, place] for place, name in enumerate(features)}
    with np.errstate(divide="ignore", invalid="ignore"):
        made = _lateness(held) | _trends(held) | _regularity(held)
    more = [np.where(np.isfinite(column), column, np.nan) for column in made.values()]
    return np.column_stack([values, *more]) if more else values, (*features, *made)


def _lateness(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Days away over the days usually between two visits: 1 is on time, 3 is three times as long as usual."""
    if _SINCE not in held:
        return {}
    since = held[_SINCE]
    known = np.maximum(held[_TENURE], 1.0) if _TENURE in held else np.full(len(since), np.inf)
    found = {
        f"lateness_{days}d": since * held[f"basket_count_{days}d"] / np.minimum(known, days)
        for days in _SPANS
        if f"basket_count_{days}d" in held
    }
    if _TENURE in held and "basket_count_ever" in held:
        found["lateness_ever"] = since * (held["basket_count_ever"] - 1) / np.maximum(held[_TENURE] - since, 1.0)
    return found


def _trends(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A short window's share of a longer one's, of visits and of money."""
    return {
        f"{what}_{short}d_of_{long}d": held[f"{what}_{short}d"] / held[f"{what}_{long}d"]
        for what in ("basket_count", "amount_sum")
        for short, long in _TRENDS
        if {f"{what}_{short}d", f"{what}_{long}d"} <= set(held)
    }


def _regularity(held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the last eight weeks: how even they were, how many were empty, and the longest row of empty ones."""
    if not set(_WEEKS) <= set(held):
        return {}
    upto = np.column_stack([held[name] for name in _WEEKS])
    weeks = np.diff(upto, axis=1, prepend=0.0)
    empty = weeks == 0
    row, longest = np.zeros(len(weeks)), np.zeros(len(weeks))
    for week in range(weeks.shape[1]):
        row = np.where(empty[:, week], row + 1, 0.0)
        longest = np.maximum(longest, row)
    pairs = weeks[:, ::2] + weeks[:, 1::2]
    ages = np.arange(weeks.shape[1]) + 0.5
    spread = weeks.std(axis=1)
    found = {
        "weekly_spread": spread,
        "weekly_unevenness": spread / weeks.mean(axis=1),
        "empty_weeks": empty.sum(axis=1).astype(np.float64),
        "longest_empty_weeks": longest,
        "empty_fortnights": (pairs == 0).sum(axis=1).astype(np.float64),
        "least_fortnight": pairs.min(axis=1),
        **{f"recent_visits_{h}w": weeks @ 0.5 ** (ages / h) for h in (1, 2, 4)},
    }
    if _SINCE in held:
        found["weeks_beyond_longest"] = held[_SINCE] / 7 - longest
    return found
