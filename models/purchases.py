"""Purchase lines as integer codes: the form in which popularity and recommendation read `Interactions`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.frame import Interactions

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

    @classmethod
    def of(cls, interactions: Interactions, *, since: datetime | None = None) -> Purchases:
        """All lines, or those with `occurred_at` > `since`."""
        table = interactions.table
        if since is not None:
            moment = pa.scalar(since, type=table.schema.field("occurred_at").type)
            table = table.filter(pc.greater(table["occurred_at"], moment))
        user_keys, users = _encode(table["user_key"])
        item_ids, items = _encode(table["item_id"])
        return cls(user_keys, item_ids, users, items)

    def distinct_buyers(self) -> np.ndarray:
        """How many people bought each item, int64 `[n_items]`."""
        pairs = np.unique(self.users * len(self.item_ids) + self.items)
        return np.bincount(pairs % max(1, len(self.item_ids)), minlength=len(self.item_ids))

    def sequences(self, *, limit: int) -> dict[str, list[str]]:
        """Each person's last `limit` lines, newest first: what the online sequence feature held at the last line."""
        starts = np.searchsorted(self.users, np.arange(len(self.user_keys) + 1))
        names = np.array(self.item_ids, dtype=object)
        return {
            key: names[self.items[max(starts[i], starts[i + 1] - limit) : starts[i + 1]][::-1]].tolist()
            for i, key in enumerate(self.user_keys)
        }

    def baskets(self) -> dict[str, set[str]]:
        """The set of items each person bought."""
        return {key: set(items) for key, items in self.sequences(limit=len(self.users) or 1).items()}


def fewest_buyers(wanted: int, *, people: int) -> int:
    """How many different people must have bought an item before it may be learned or shown.

    `wanted` for shops with 100 times as many customers or more; below that one customer in a hundred, and never less
    than 5 (or `wanted`, if that is less), so that a small shop has a catalogue left and nobody's single purchase shows.
    """
    return min(wanted, max(5, people // 100))


def _encode(column: pa.ChunkedArray) -> tuple[tuple[str, ...], np.ndarray]:
    encoded = column.combine_chunks().dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(names.astype(str), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return tuple(names[order].tolist()), rank[encoded.indices.to_numpy(zero_copy_only=False)] if len(
        order
    ) else np.empty(0, np.int64)
