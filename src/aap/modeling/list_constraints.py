"""Making a list of what was ranked: what must not be on it, and how much of one kind may."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Wishes", "fill", "take"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a list is asked to be, beside good."""

    without: tuple[str, ...] = ()
    """Item ids that must not show: out of stock, in the basket already."""
    among: Collection[str] | None = None
    """Only these items."""
    category: str | None = None
    """Only items of this category."""
    most_a_category: int | None = None
    """At most so many items of one category, so that the list is varied; fewer items are given rather than more."""

    def mask(
        self, item_ids: Sequence[str], codes: Mapping[str, int], categories: Sequence[str], category: np.ndarray
    ) -> np.ndarray | None:
        """Which items may show, bool `[n_items]`; None for all."""
        if not self.without and self.among is None and self.category is None:
            return None
        if self.category is None:
            allowed = np.ones(len(item_ids), dtype=bool)
        elif self.category in categories:
            allowed = category == list(categories).index(self.category)
        else:
            allowed = np.zeros(len(item_ids), dtype=bool)
        if self.among is not None:
            among = np.zeros(len(item_ids), dtype=bool)
            among[[codes[item] for item in self.among if item in codes]] = True
            allowed &= among
        allowed[[codes[item] for item in self.without if item in codes]] = False
        return allowed


def take(rows: np.ndarray, item: np.ndarray, category: np.ndarray, *, n: int, most: int | None) -> np.ndarray:
    """The first `n` of `rows`, at most `most` of one category; items without a category are never too many."""
    if most is None:
        return rows[:n]
    kinds = category[item[rows]]
    return rows[_within(kinds, most)][:n]


def fill(items: np.ndarray, category: np.ndarray, *, n: int, most: int | None) -> np.ndarray:
    """The same for rows that are item codes themselves."""
    return take(items, np.arange(len(category)), category, n=n, most=most)


def _within(kinds: np.ndarray, most: int) -> np.ndarray:
    """Whether each is among the first `most` of its kind, bool `[n]`."""
    order = np.argsort(kinds, kind="stable")
    kind = kinds[order]
    starts = np.searchsorted(kind, kind)
    kept = np.empty(len(kinds), dtype=bool)
    kept[order] = (np.arange(len(kinds)) - starts < most) | (kind < 0)
    return kept
