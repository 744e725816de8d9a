"""What churn reads out of its features beside the features themselves: lateness, gaps and trends. Pure arithmetic.

The last purchase days tell the gaps between visits: how long somebody usually stays away, how long they ever did, and how
often a gap as long as the one they are in went on for another horizon. Counts over windows that end now differ by what
happened between their tails, so windows a week apart tell how many visits each week had, and with that how regular somebody
is. What a shop's service doesn't have is left out.

Which columns those are is found out once a list of features, for one person is scored as often as thousands are. Both give
the same to the last bit: sums are over rows that lie side by side, since the order of adding follows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

__all__ = ["columns"]

_SINCE, _TENURE, _EVER = "days_since_last_purchase", "tenure_days", "basket_count_ever"
_WEEKS = tuple(f"basket_count_{7 * week}d" for week in range(1, 9))
_SPANS = (28, 90, 180)
_TRENDS = ((7, 28), (14, 56), (28, 90), (90, 180))

_DAYS = tuple(f"days_since_purchase_day_{n}" for n in range(1, 21))
_QUANTILES = np.array([0.5, 0.75, 0.9, 1.0])
_RECENT = 0.85
"""What a gap counts of the one after it, in the mean of recent ones."""
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

_BITS = 1 << np.arange(len(_WEEKS))
_EMPTY = np.arange(1 << len(_WEEKS))[:, None] & _BITS > 0
"""Every pattern of empty weeks, bool `[256, 8]`, by the number whose bits it is."""
_LONGEST = np.array(
    [max((len(list(run)) for empty, run in groupby(row) if empty), default=0) for row in _EMPTY.tolist()]
)
_HALVES = (1, 2, 4)
_FADING = 0.5 ** ((np.arange(len(_WEEKS))[:, None] + 0.5) / np.array(_HALVES))
"""float64 `[8, 3]`: what a visit of each week still counts when it halves every 1, 2 or 4 weeks."""
_REGULARITY = (
    "weekly_spread",
    "weekly_unevenness",
    "empty_weeks",
    "longest_empty_weeks",
    "empty_fortnights",
    "least_fortnight",
    *(f"recent_visits_{half}w" for half in _HALVES),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Where a service's features hold what is needed; places `[]` where it has none of it."""

    names: tuple[str, ...]
    """Of what is made, in the order it is made."""
    since: int | None
    tenure: int | None
    ever: int | None
    spans: np.ndarray
    """Days, float64."""
    counted: np.ndarray
    """Places of the visits within these days."""
    short: np.ndarray
    long: np.ndarray
    weeks: np.ndarray
    days: np.ndarray
    """Places of the days since the last purchase day, the one before, and so on."""


@lru_cache(maxsize=16)
def _plan(features: tuple[str, ...]) -> _Plan:
    place = {name: i for i, name in enumerate(features)}
    since, tenure, ever = (place.get(name) for name in (_SINCE, _TENURE, _EVER))
    spans = [days for days in _SPANS if since is not None and f"basket_count_{days}d" in place]
    ever = ever if since is not None and tenure is not None else None
    trends = [
        (f"{what}_{short}d", f"{what}_{long}d", f"{what}_{short}d_of_{long}d")
        for what in ("basket_count", "amount_sum")
        for short, long in _TRENDS
        if {f"{what}_{short}d", f"{what}_{long}d"} <= set(place)
    ]
    weeks = [place[name] for name in _WEEKS] if set(_WEEKS) <= set(place) else []
    days = [place[name] for name in _DAYS if name in place]
    days = days if len(days) > 1 else []
    names = (
        *(f"lateness_{days}d" for days in spans),
        *(["lateness_ever"] if ever is not None else []),
        *(name for _, _, name in trends),
        *(_REGULARITY if weeks else []),
        *(["weeks_beyond_longest"] if weeks and since is not None else []),
        *(_RHYTHM if days else []),
    )
    return _Plan(
        names,
        since,
        tenure,
        ever,
        np.array(spans, dtype=np.float64),
        np.array([place[f"basket_count_{days}d"] for days in spans], dtype=np.intp),
        np.array([place[short] for short, _, _ in trends], dtype=np.intp),
        np.array([place[long] for _, long, _ in trends], dtype=np.intp),
        np.array(weeks, dtype=np.intp),
        np.array(days, dtype=np.intp),
    )


def columns(values: np.ndarray, features: Sequence[str], *, horizon_days: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """`values` float64 `[n, n_features]` with more columns behind, and the names of all; NaN where undefined.

    `horizon_days`: the days without a purchase that count as leaving.
    """
    plan = _plan(tuple(features))
    if not plan.names:
        return values, (*features,)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [*_lateness(values, plan), *_trends(values, plan), *_regularity(values, plan)]
        made = np.concatenate([*found, *_rhythm(values, plan, horizon_days)], axis=1)
    made[~np.isfinite(made)] = np.nan
    return np.concatenate([values, made], axis=1), (*features, *plan.names)


def _lateness(values: np.ndarray, plan: _Plan) -> list[np.ndarray]:
    """Days away over the days usually between two visits: 1 is on time, 3 is three times as long as usual."""
    if plan.since is None:
        return []
    since = values[:, plan.since, None]
    tenure = np.full((len(values), 1), np.inf) if plan.tenure is None else values[:, plan.tenure, None]
    found = [since * values[:, plan.counted] / np.minimum(np.maximum(tenure, 1.0), plan.spans)]
    if plan.ever is not None:
        found.append(since * (values[:, plan.ever, None] - 1) / np.maximum(tenure - since, 1.0))
    return found


def _trends(values: np.ndarray, plan: _Plan) -> list[np.ndarray]:
    """A short window's share of a longer one's, of visits and of money."""
    return [values[:, plan.short] / values[:, plan.long]]


def _regularity(values: np.ndarray, plan: _Plan) -> list[np.ndarray]:
    """Of the last eight weeks: how even they were, how many were empty, and the longest row of empty ones."""
    if not len(plan.weeks):
        return []
    counted = values.take(plan.weeks, axis=1)
    weeks = np.diff(counted, axis=1, prepend=0.0)
    pairs = weeks[:, ::2] + weeks[:, 1::2]
    mean = weeks.sum(axis=1) / len(_WEEKS)
    spread = np.sqrt(np.maximum((weeks * weeks).sum(axis=1) / len(_WEEKS) - mean * mean, 0.0))
    empty = weeks == 0
    longest = _LONGEST[empty @ _BITS]
    found = [spread, spread / mean, empty.sum(axis=1), longest, (pairs == 0).sum(axis=1), pairs.min(axis=1)]
    beyond = [] if plan.since is None else [(values[:, plan.since] / 7 - longest)[:, None]]
    return [np.stack(found, axis=1), (weeks[:, :, None] * _FADING).sum(axis=1), *beyond]


def _rhythm(values: np.ndarray, plan: _Plan, horizon: int) -> list[np.ndarray]:
    """Of the gaps between the last purchase days: how long they were, beside the time away and beside the horizon.

    Shares are drawn towards what is usual among everybody, 15 % of the days and 20 % of the gaps, as if four more weeks and
    two more gaps had been seen.
    """
    if not len(plan.days):
        return []
    days = values.take(plan.days, axis=1)
    away, gaps = days[:, 0], np.diff(days, axis=1)
    lengths = np.nan_to_num(gaps)
    known = gaps == gaps
    count, total = known.sum(axis=1), lengths.sum(axis=1)
    order = np.sort(gaps, axis=1)  # unknown ones last
    places = np.rint(np.maximum(count - 1, 0)[:, None] * _QUANTILES).astype(np.intp)
    quantiles = np.take_along_axis(order, places, axis=1)
    mean = total / count
    spread = np.sqrt(np.maximum((lengths * lengths).sum(axis=1) / count - mean * mean, 0.0))
    weight = _RECENT ** np.arange(gaps.shape[1])
    over = np.maximum(lengths - horizon, 0.0).sum(axis=1)
    longer = lengths > away[:, None]
    went_on = lengths > away[:, None] + horizon
    return [
        quantiles,
        np.stack(
            [
                mean,
                spread,
                (lengths * weight).sum(axis=1) / (known * weight).sum(axis=1),
                count,
                away / np.maximum(quantiles[:, 2], 1.0),
                away / np.maximum(mean, 0.5),
                (lengths >= horizon).sum(axis=1),
                over,
                (over + 0.15 * 28) / (total + 28),
                (went_on.sum(axis=1) + 0.2 * 2) / (longer.sum(axis=1) + 2),
            ],
            axis=1,
        ),
    ]
