"""What people bought, as integer codes in visits: all that the blend reads of a person, in training and while answering.

Time is counted in visits: 0 is a person's newest basket, 1 the one before. An online sequence has no clock, but it has
baskets, and a habit is better told in visits anyway: somebody on holiday misses no milk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aap.modeling.errors import SchemaMismatch
from aap.modeling.interactions import Purchases

__all__ = ["History"]


@dataclass(frozen=True, slots=True)
class History:
    """One entry a purchased line, by person (ascending), each person's newest first."""

    people: int
    """How many people there are; some may have no line."""
    person: np.ndarray
    """int64 `[n_lines]`, 0 to `people` − 1."""
    item: np.ndarray
    """int64 `[n_lines]`, the item's code, −1 for one that the model doesn't know."""
    visit: np.ndarray
    """int64 `[n_lines]`, visits ago: 0 is the newest basket."""

    @classmethod
    def of_sequences(
        cls, items: Sequence[Sequence[str]], baskets: Sequence[Sequence[str]], *, codes: Mapping[str, int]
    ) -> History:
        """From two online sequences a person, newest first, line by line: the item, and the basket it was in."""
        lengths = [len(row) for row in items]
        if lengths != [len(row) for row in baskets]:
            raise SchemaMismatch("recommendation", expected=("as many baskets as items",), given=("another number",))
        names = [name for row in items for name in row]
        item = np.fromiter((codes.get(name, -1) for name in names), dtype=np.int64, count=len(names))
        basket = np.array([name for row in baskets for name in row], dtype=object)
        person = np.repeat(np.arange(len(items)), lengths)
        return cls(len(items), person, item, _visits(person, basket))

    @classmethod
    def of_purchases(cls, bought: Purchases, *, position: np.ndarray, limit: int, until: int | None = None) -> History:
        """The last `limit` lines of everyone up to `until` (microseconds), as the online sequences held them then.

        `position` int64 `[n_items]` says which code the model gives each item of `bought`, −1 for none.
        """
        lines = np.arange(len(bought.users)) if until is None else np.flatnonzero(bought.moments <= until)
        lines = lines[::-1]
        order = lines[np.argsort(bought.users[lines], kind="stable")]
        people = len(bought.user_keys)
        starts = np.searchsorted(bought.users[order], np.arange(people))
        kept = order[np.arange(len(order)) - starts[bought.users[order]] < limit]
        person = bought.users[kept]
        return cls(people, person, position[bought.items[kept]], _visits(person, bought.baskets[kept]))

    @property
    def visits(self) -> np.ndarray:
        """How many visits of each person are known, int64 `[people]`."""
        found = np.zeros(self.people, dtype=np.int64)
        np.maximum.at(found, self.person, self.visit + 1)
        return found


def _visits(person: np.ndarray, basket: np.ndarray) -> np.ndarray:
    """Visits ago of each line: one more wherever the basket differs from the line before."""
    if not len(person):
        return np.empty(0, dtype=np.int64)
    first = np.append(True, person[1:] != person[:-1])
    turned = np.cumsum(np.append(False, basket[1:] != basket[:-1]) & ~first)
    return np.asarray(turned - np.repeat(turned[first], np.diff(np.append(np.flatnonzero(first), len(person)))))
