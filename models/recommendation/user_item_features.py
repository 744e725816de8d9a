"""Habits: what each person does with each item they bought before, and with each category. Counted in visits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.recommendation.purchase_history import History

__all__ = ["PERSON", "Habits"]

_WITHIN = (2, 5, 10, 20)
_HALF_LIVES = (2.0, 5.0, 10.0, 20.0, 40.0)
_FAR = 1 << 12
"""More visits than any sequence holds."""
PERSON = ("visits", "items", "lines_a_visit", "lines_an_item")
"""What is known of a person alone."""


@dataclass(frozen=True, slots=True)
class Habits:
    """One row a person and item they bought, sorted by both."""

    people: int
    items: int
    """Size of the catalogue."""
    key: np.ndarray
    """int64 `[n_pairs]`, ascending: person × `items` + item."""
    columns: dict[str, np.ndarray]
    """float64 `[n_pairs]` each."""
    person: dict[str, np.ndarray]
    """float64 `[people]` each, by the names in `PERSON`."""

    @classmethod
    def of(cls, history: History, *, items: int) -> Habits:
        """Everything about everyone in `history`, in a few passes over its lines."""
        known = history.item >= 0
        once, lines = np.unique(
            (history.person[known] * items + history.item[known]) * _FAR + history.visit[known], return_counts=True
        )
        key, visit = once // _FAR, once % _FAR
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.empty(0, dtype=np.int64)
        end = np.append(first[1:], len(key)).astype(np.int64)[: len(first)]
        pair = np.repeat(np.arange(len(first)), end - first)
        visits = history.visits
        columns = _recency(visit, pair, first=first, end=end, lines=lines)
        owner = key[first] // items
        columns |= _shares(columns, visits[owner])
        columns |= _gaps(visit, pair, columns)
        columns |= _standing(columns, owner, people=history.people)
        return cls(history.people, items, key[first], columns, _person(columns, owner, visits))

    @property
    def owner(self) -> np.ndarray:
        """The person of each row, int64 `[n_pairs]`."""
        return self.key // self.items

    @property
    def item(self) -> np.ndarray:
        """The item of each row, int64 `[n_pairs]`."""
        return self.key % self.items

    def rows_of(self, key: np.ndarray) -> np.ndarray:
        """The row of each of `key`, int64 `[n]`; −1 for an item the person never bought."""
        if not len(self.key):
            return np.full(len(key), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        return np.where(self.key[place] == key, place, -1)


def _recency(
    visit: np.ndarray, pair: np.ndarray, *, first: np.ndarray, end: np.ndarray, lines: np.ndarray
) -> dict[str, np.ndarray]:
    count = len(first)
    found = {
        "times": (end - first).astype(np.float64),
        "lines": np.bincount(pair, lines, minlength=count),
        "visits_since_last": visit[first].astype(np.float64),
        "visits_since_first": visit[end - 1].astype(np.float64),
    }
    found |= {f"times_{w}": np.bincount(pair, visit < w, minlength=count) for w in _WITHIN}
    found |= {f"recent_{h:g}": np.bincount(pair, 0.5 ** (visit / h), minlength=count) for h in _HALF_LIVES}
    return found


def _shares(columns: dict[str, np.ndarray], visits: np.ndarray) -> dict[str, np.ndarray]:
    """Of the person's visits, how many had the item: plain, and with old visits counting less."""
    found = {
        "share": columns["times"] / visits,
        "share_since_first": columns["times"] / (columns["visits_since_first"] + 1.0),
    }
    for h in _HALF_LIVES:
        fade = 0.5 ** (1.0 / h)
        found[f"share_recent_{h:g}"] = columns[f"recent_{h:g}"] * (1.0 - fade) / (1.0 - fade**visits)
    return found


def _gaps(visit: np.ndarray, pair: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Visits between buying and buying again, and how far the wait since the last time is beyond that; NaN if never."""
    count, times = len(columns["times"]), columns["times"]
    within = pair[1:] == pair[:-1]
    gap, of = np.diff(visit)[within].astype(np.float64), pair[1:][within]
    again = np.where(times > 1, times - 1.0, np.nan)
    mean = np.bincount(of, gap, minlength=count) / again
    spread = np.sqrt(np.maximum(np.bincount(of, gap * gap, minlength=count) / again - mean * mean, 0.0))
    newest = np.full(count, np.nan)
    newest[of[::-1]] = gap[::-1]
    since = columns["visits_since_last"]
    return {
        "gap_mean": mean,
        "gap_spread": spread,
        "gap_newest": newest,
        "gap_median": _medians(gap, of, count=count),
        "wait_by_mean": since / mean,
        "wait_by_spread": (since - mean) / (spread + 0.5),
    }


def _medians(values: np.ndarray, of: np.ndarray, *, count: int) -> np.ndarray:
    """Lower median of the values of each of `count` groups; NaN where there is none."""
    order = np.lexsort((values, of))
    sizes = np.bincount(of, minlength=count)
    starts = np.cumsum(sizes) - sizes
    found = np.full(count, np.nan)
    there = sizes > 0
    found[there] = values[order][starts[there] + (sizes[there] - 1) // 2]
    return found


def _standing(columns: dict[str, np.ndarray], owner: np.ndarray, *, people: int) -> dict[str, np.ndarray]:
    """How an item stands among the person's own: its rank, and its weight over that of the tenth."""
    found = {}
    for name in ("recent_10", "recent_40"):
        order = np.lexsort((-columns[name], owner))
        starts = np.searchsorted(owner, np.arange(people))
        sizes = np.diff(np.append(starts, len(owner)))
        rank = np.empty(len(owner))
        rank[order] = np.arange(len(owner)) - starts[owner]
        found[f"rank_{name}"] = rank
        if len(owner):
            tenth = columns[name][order][np.minimum(starts + np.minimum(9, np.maximum(sizes - 1, 0)), len(owner) - 1)]
            found[f"{name}_by_tenth"] = columns[name] / tenth[owner]
        else:
            found[f"{name}_by_tenth"] = rank
    return found


def _person(columns: dict[str, np.ndarray], owner: np.ndarray, visits: np.ndarray) -> dict[str, np.ndarray]:
    items = np.bincount(owner, minlength=len(visits)).astype(np.float64)
    lines = np.bincount(owner, columns["lines"], minlength=len(visits))
    made = (visits.astype(np.float64), items, lines / np.maximum(visits, 1), lines / np.maximum(items, 1))
    return dict(zip(PERSON, made, strict=True))
