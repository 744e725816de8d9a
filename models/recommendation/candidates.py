"""The shelf: the item side of recommending, and what is taken from it for a person: candidates and what is known of them.

Nothing of a person is kept here. The same code makes the rows that the blend learns from and those it answers on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aap.modeling.algorithms.als import ItemFactors
from aap.modeling.evaluation.ranking import top_indices
from models.recommendation.item_features import ItemFacts
from models.recommendation.purchase_history import History
from models.recommendation.user_item_features import PERSON, Habits

__all__ = ["Candidates", "Shelf"]

_AT_ONCE = 128
"""People looked at together: enough to share the cost of numpy's calls, few enough to keep the memory small."""
_TASTE = ("taste", "recent_taste", "taste_by_tenth")
_CATEGORY = ("category_recent", "category_items", "category_since", "share_of_category")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items that may be shown, one row each, by person (ascending)."""

    person: np.ndarray
    """int64 `[n]`, index into the people asked about."""
    item: np.ndarray
    """int64 `[n]`, the item's code."""
    place: np.ndarray
    """int64 `[n]`, 0 for the new item most to the person's taste, 1 for the next, …; −1 for one they bought before."""
    taste: np.ndarray
    """float64 `[n]`, the factors' score."""
    values: np.ndarray
    """float32 `[n, n_features]`, in the order of `Shelf.features`; NaN for what a new item can't have."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Item vectors and item facts of one catalogue."""

    factors: ItemFactors
    facts: ItemFacts
    habits: tuple[str, ...]
    """Names of what is known of a person and an item they bought, in order."""

    @classmethod
    def of(cls, factors: ItemFactors, facts: ItemFacts) -> Shelf:
        """With the columns that `Habits` makes."""
        nobody = History(0, *(np.empty(0, dtype=np.int64) for _ in range(3)))
        return cls(factors, facts, tuple(Habits.of(nobody, items=len(factors.items)).columns))

    @property
    def features(self) -> tuple[str, ...]:
        """What each column of `Candidates.values` is."""
        about_item = tuple(f"item_{name}" for name in self.facts.names)
        return (*self.habits, *(f"person_{name}" for name in PERSON), *about_item, *_TASTE, *_CATEGORY)

    def candidates(self, history: History, *, again: int, new: int, allowed: np.ndarray | None = None) -> Candidates:
        """For everyone in `history`: the `again` items they bought most of late, and the `new` most to their taste.

        `allowed` bool `[n_items]` leaves out the rest. What one person gets never depends on who else is asked about.
        """
        found = list(self.in_parts(history, again=again, new=new, allowed=allowed))
        if len(found) == 1:
            return found[0]
        names = ("person", "item", "place", "taste", "values")
        return Candidates(*(np.concatenate([getattr(part, name) for part in found]) for name in names))

    def in_parts(
        self, history: History, *, again: int, new: int, allowed: np.ndarray | None = None
    ) -> Iterator[Candidates]:
        """The same, for a hundred people at a time."""
        edges = np.searchsorted(history.person, np.arange(0, history.people + _AT_ONCE, _AT_ONCE))
        for start in range(0, max(1, history.people), _AT_ONCE):
            first, end = edges[start // _AT_ONCE], edges[start // _AT_ONCE + 1]
            some = min(_AT_ONCE, history.people - start)
            part = History(some, history.person[first:end] - start, history.item[first:end], history.visit[first:end])
            found = self._candidates(part, again=again, new=new, allowed=allowed)
            yield replace(found, person=found.person + start)

    def _candidates(self, history: History, *, again: int, new: int, allowed: np.ndarray | None) -> Candidates:
        count = len(self.factors.items)
        habits = Habits.of(history, items=count)
        edges = np.searchsorted(habits.owner, np.arange(history.people + 1))
        habit = habits.columns["recent_40"] + habits.columns["recent_10"]
        weights = np.minimum(habits.columns["recent_20"], 20.0)
        banned = None if allowed is None else ~allowed
        items, places, tastes, sizes = [], [], [], []
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            own = habits.item[first:end]
            taste, recent, tenth = self._tastes(own, habits.columns["lines"][first:end], weights[first:end])
            theirs = habit[first:end].copy()
            others = taste.copy()
            others[own] = -np.inf
            if banned is not None:
                others[banned], theirs[banned[own]] = -np.inf, -np.inf
            kept, fresh = own[top_indices(theirs, n=again)], top_indices(others, n=new)
            picked = np.concatenate((kept, fresh))
            items.append(picked)
            places.append(np.append(np.full(len(kept), -1), np.arange(len(fresh))))
            sizes.append(len(picked))
            tastes.append(np.column_stack((taste[picked], recent[picked], taste[picked] / tenth)))
        person, item = np.repeat(np.arange(history.people), sizes), _joined(items)
        taste_of = np.concatenate(tastes) if tastes else np.empty((0, len(_TASTE)))
        rows = habits.rows_of(person * count + item)
        values = np.full((len(item), len(self.features)), np.nan, dtype=np.float32)
        self._fill(values, habits, rows, person, item, taste_of)
        return Candidates(person, item, _joined(places), taste_of[:, 0], values)

    def _tastes(self, own: np.ndarray, lines: np.ndarray, recent: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Scores of all items by everything bought, and by what was bought lately; the tenth largest of the first."""
        if not len(own):
            nothing = np.zeros(len(self.factors.items))
            return nothing, nothing, 1.0
        taste, lately = self.factors.scores(own, lines), self.factors.scores(own, recent)
        tenth = float(np.partition(taste, -10)[-10]) if len(taste) >= 10 else float(taste.max())
        return taste, lately, max(tenth, 1e-6)

    def _fill(
        self,
        values: np.ndarray,
        habits: Habits,
        rows: np.ndarray,
        person: np.ndarray,
        item: np.ndarray,
        tastes: np.ndarray,
    ) -> None:
        owned, at = rows >= 0, 0
        mine = rows[owned]
        for name in self.habits:
            values[owned, at] = habits.columns[name][mine]
            at += 1
        for name in PERSON:
            values[:, at] = habits.person[name][person]
            at += 1
        for name in self.facts.names:
            values[:, at] = self.facts.columns[name][item]
            at += 1
        values[:, at : at + len(_TASTE)] = tastes
        values[:, at + len(_TASTE) :] = self._category(habits, rows, person, item)

    def _category(self, habits: Habits, rows: np.ndarray, person: np.ndarray, item: np.ndarray) -> np.ndarray:
        """What the person has to do with the item's category, float64 `[n, 4]`; NaN where the category isn't known."""
        found = np.full((len(item), len(_CATEGORY)), np.nan)
        kinds = int(self.facts.category.max(initial=-1)) + 1
        if not kinds:
            return found
        of, recent = self.facts.category[habits.item], habits.columns["recent_20"]
        known = of >= 0
        group, place = np.unique(habits.owner[known] * kinds + of[known], return_inverse=True)
        total, count = np.bincount(place, recent[known], minlength=len(group)), np.bincount(place, minlength=len(group))
        since = np.full(len(group), np.inf)
        np.minimum.at(since, place, habits.columns["visits_since_last"][known])
        category = self.facts.category[item]
        asked = person * kinds + category
        there = np.minimum(np.searchsorted(group, asked), max(0, len(group) - 1))
        hit = (group[there] == asked) & (category >= 0) if len(group) else np.zeros(len(item), dtype=bool)
        found[category >= 0, :2] = 0.0
        found[hit, 0], found[hit, 1], found[hit, 2] = total[there[hit]], count[there[hit]], since[there[hit]]
        both = hit & (rows >= 0)
        found[both, 3] = recent[rows[both]] / total[there[both]]
        return found


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
