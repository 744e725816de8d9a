"""What is known of items from everyone together: how popular, how habitual, how new, and of which category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aap.features.declarations import DAY_US
from aap.modeling.interactions import Purchases

__all__ = ["ItemFacts"]

_DAYS = (7, 14, 28, 56, 112)


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """One row an item of the model's catalogue."""

    columns: dict[str, np.ndarray]
    """float64 `[n_items]` each."""
    category: np.ndarray
    """int64 `[n_items]`, a code; −1 where none is known."""

    @classmethod
    def of(cls, bought: Purchases, *, position: np.ndarray, items: int, category: np.ndarray, until: int) -> ItemFacts:
        """From every line up to `until` (microseconds); `position` as in `History.of_purchases`."""
        lines = np.flatnonzero((bought.moments <= until) & (position[bought.items] >= 0))
        person, item = bought.users[lines], position[bought.items[lines]]
        days = (until - bought.moments[lines]) / DAY_US
        customers = {d: max(1, len(np.unique(person[days < d]))) for d in _DAYS}
        pairs, first, times = np.unique(person * items + item, return_index=True, return_counts=True)
        begun = days[first]  # lines are in order of time, so the first of a pair is its oldest
        of = pairs % items
        buyers = np.bincount(of, minlength=items).astype(np.float64)
        columns = {}
        for d in _DAYS:
            recent = np.unique(person[days < d] * items + item[days < d]) % items
            columns[f"buyers_{d}d"] = np.bincount(recent, minlength=items) / customers[d]
            columns[f"newcomers_{d}d"] = np.bincount(of[begun < d], minlength=items) / customers[d]
        columns["trend_7d"] = _ratio(columns["buyers_7d"], columns["buyers_28d"])
        columns["trend_28d"] = _ratio(columns["buyers_28d"], columns["buyers_112d"])
        columns["newcomer_trend"] = _ratio(columns["newcomers_14d"], columns["newcomers_56d"])
        columns["buyers"] = buyers
        columns["repeat_share"] = np.bincount(of, times > 1, minlength=items) / np.maximum(buyers, 1)
        columns["times_a_buyer"] = np.bincount(of, times, minlength=items) / np.maximum(buyers, 1)
        oldest = np.zeros(items)
        np.maximum.at(oldest, item, days)
        columns["days_on_sale"] = oldest
        return cls(columns, category)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.columns)


def _ratio(recent: np.ndarray, longer: np.ndarray) -> np.ndarray:
    """How much of the longer span's popularity the recent one shows; shares of a person in a hundred are added to both,
    so that the rarest items say nothing."""
    return np.asarray((recent + 0.002) / (longer + 0.008))
