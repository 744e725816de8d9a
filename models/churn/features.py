"""What churn reads out of its features beside the features themselves: the rhythm of somebody's visits. Pure arithmetic.

The last purchase days tell the gaps between visits: how long somebody usually stays away, how long they ever did, and how
often a gap as long as the one they are in went on for another horizon. Where a service has no such days nothing is added.

One person is scored as often as thousands are, and both give the same to the last bit: gaps are whole days, so that their
sums are exact, and weights are powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

__all__ = ["columns"]

_DAYS = tuple(f"days_since_purchase_day_{n}" for n in range(1, 21))
_QUANTILES = np.array([0.5, 0.75, 0.9, 1.0])
_FADING = 0.5 ** (np.arange(len(_DAYS) - 1) // 4)
"""What a gap counts in the mean of recent ones: half as much every four gaps."""
_RHYTHM = (
    "gap_median",
    "gap_p75",
    "gap_p90",
    "gap_longest",
    "gap_mean",
    "gap_spread",
    "gap_mean_recent",
    "gaps_known",
    "late_by_p90",
    "late_by_mean",
    "gaps_over_horizon",
    "gap_days_over_horizon",
    "gap_days_over_horizon_share",
    "gaps_as_long_that_went_on",
)
_USUAL_AWAY, _WEEKS_SEEN = 0.15, 4
_USUAL_ON, _GAPS_SEEN = 0.2, 2
"""Shares are drawn towards what is usual among everybody: 15 % of the days are further than a horizon from the next visit,
and 20 % of the gaps go on, as if so many more weeks and gaps had been seen.
"""


def columns(values: np.ndarray, features: Sequence[str], *, horizon_days: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """`values` float64 `[n, n_features]` with more columns behind, and the names of all; NaN where undefined.

    `horizon_days`: the days without a purchase that count as leaving.
    """
    names, places = _plan(tuple(features))
    if not len(places):
        return values, names
    wide = np.empty((len(values), len(names)))
    wide[:, : values.shape[1]] = values
    _rhythm(values.take(places, axis=1), horizon_days, into=wide[:, values.shape[1] :])
    return wide, names


@lru_cache(maxsize=16)
def _plan(features: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of all columns, and where the days since the last purchase day, the one before, and so on are."""
    places = [features.index(name) for name in _DAYS if name in features]
    if len(places) < 2:
        return features, np.empty(0, dtype=np.intp)
    return (*features, *_RHYTHM), np.array(places, dtype=np.intp)


def _rhythm(days: np.ndarray, horizon: int, *, into: np.ndarray) -> None:
    """Of the gaps between purchase days: how long they were, beside the time away and beside the horizon."""
    away = days[:, 0]
    gaps = np.rint(days[:, 1:] - days[:, :-1])
    unknown = np.isnan(gaps)
    count = (gaps.shape[1] - unknown.sum(axis=1)).astype(np.float64)
    shortest_first = np.sort(gaps, axis=1)  # the unknown last
    gaps[unknown] = 0.0
    total = gaps.sum(axis=1)
    places = np.rint(np.maximum(count - 1, 0)[:, None] * _QUANTILES).astype(np.intp)
    quantiles = shortest_first[np.arange(len(days))[:, None], places]
    fading = _FADING[: gaps.shape[1]]
    excess = gaps - away[:, None]
    over = np.maximum(gaps - horizon, 0.0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        into[:, :4] = quantiles
        into[:, 4] = mean
        into[:, 5] = np.sqrt(np.maximum((gaps * gaps).sum(axis=1) / count - mean * mean, 0.0))
        into[:, 6] = (gaps * fading).sum(axis=1) / (~unknown * fading).sum(axis=1)
        into[:, 7] = count
        into[:, 8] = away / np.maximum(quantiles[:, 2], 1.0)
        into[:, 9] = away / np.maximum(mean, 0.5)
    into[:, 10] = (gaps >= horizon).sum(axis=1)
    into[:, 11] = over
    into[:, 12] = (over + _USUAL_AWAY * 7 * _WEEKS_SEEN) / (total + 7 * _WEEKS_SEEN)
    went_on, as_long = (excess > horizon).sum(axis=1), (excess > 0).sum(axis=1)
    into[:, 13] = (went_on + _USUAL_ON * _GAPS_SEEN) / (as_long + _GAPS_SEEN)
