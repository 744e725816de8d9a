"""Purchase lines as integer codes: the form in which popularity and recommendation read `Interactions`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aap.features.datasets import Interactions

__all__ = ["Purchases", "fewest_buyers"]


@dataclass(frozen=True, slots=True)
class Purchases:
    """One entry a purchased line, in canonical order (user_key, occurred_at, item_id)."""

    user_keys: tuple[str, ...]
    item_ids: tuple[str, ...]
    """Sorted, so that codes do not depend on who bought first."""
    users: np.ndarray
    """int64 `[n_lines]`, index into `user_keys`."""
    items: np.ndarray
    """int64 `[n_lines]`, index into `item_ids`."""
    moments: np.ndarray
    """int64 `[n_lines]`, when, in microseconds since 1970."""
    baskets: np.ndarray
    """int64 `[n_lines]`, a number for each basket."""
    categories: tuple[str, ...]
    kinds: np.ndarray
    """int64 `[n_lines]`, index into `categories`; −1 where the line names none."""

    @classmethod
    def of(cls, interactions: Interactions, *, since: datetime | None = None) -> Purchases:
        """All lines, or those with `occurred_at` > `since`."""
        table = interactions.table
        if since is not None:
            moment = pa.scalar(since, type=table.schema.field("occurred_at").type)
            table = table.filter(pc.greater(table["occurred_at"], moment))
        user_keys, users = _encode(table["user_key"])
        item_ids, items = _encode(table["item_id"])
        moments = table["occurred_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
        categories, kinds = _encode(table["category"])
        return cls(user_keys, item_ids, users, items, moments, _encode(table["basket_id"])[1], categories, kinds)

    def distinct_buyers(self) -> np.ndarray:
        """How many people bought each item, int64 `[n_items]`."""
        pairs = np.unique(self.users * len(self.item_ids) + self.items)
        return np.bincount(pairs % max(1, len(self.item_ids)), minlength=len(self.item_ids))

    def categories_of(self, kept: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """The categories, and that of each of the `kept` items (codes), int64 `[n_kept]`: as last sold, −1 for none."""
        known = self.kinds >= 0
        order = np.argsort(self.moments[known], kind="stable")
        of = np.full(len(self.item_ids), -1, dtype=np.int64)
        of[self.items[known][order]] = self.kinds[known][order]
        return self.categories, of[kept]

    def sequences(self, *, limit: int) -> dict[str, list[str]]:
        """Each person's last `limit` items, newest first: what the online sequence feature held at the last line."""
        return self._newest(np.array(self.item_ids, dtype=object)[self.items], limit=limit)

    def basket_sequences(self, *, limit: int) -> dict[str, list[str]]:
        """The basket of each of those lines; the names are numbers here."""
        return self._newest(self.baskets.astype(str).astype(object), limit=limit)

    def _newest(self, values: np.ndarray, *, limit: int) -> dict[str, list[str]]:
        starts = np.searchsorted(self.users, np.arange(len(self.user_keys) + 1))
        return {
            key: values[max(starts[i], starts[i + 1] - limit) : starts[i + 1]][::-1].tolist()
            for i, key in enumerate(self.user_keys)
        }

    def bought(self) -> dict[str, set[str]]:
        """The set of items each person bought."""
        return {key: set(items) for key, items in self.sequences(limit=len(self.users) or 1).items()}


def fewest_buyers(wanted: int, *, people: int) -> int:
    """How many different people must have bought an item before it may be learned or shown.

    `wanted` for shops with 100 times as many customers or more; below that one customer in a hundred, and never less
    than 5 (or `wanted`, if that is less), so that a small shop has a catalogue left and nobody's single purchase shows.
    """
    return min(wanted, max(5, people // 100))


def _encode(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted distinct values, and the place of each among them, int64 `[n]`; −1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    if not len(names):
        return (), np.full(len(column), -1, dtype=np.int64)
    order = np.argsort(names.astype(str), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    places = encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
    return tuple(names[order].tolist()), np.append(rank, -1)[places]
