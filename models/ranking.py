"""Ranked lists of items: one recommendation, and how lists are judged against what people went on to buy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.metrics import ndcg_at_k, recall_at_k

__all__ = ["ListScores", "Recommendation", "judge", "top_indices"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a ranked list."""

    item_id: str
    score: float
    """Higher is better; comparable within one list only."""
    reason: str
    """Why it is there: `bought_before`, `similar_taste`, `similar_item` or `popular`."""


@dataclass(frozen=True, slots=True)
class ListScores:
    """How each person's list did, float64 `[n_users]` each."""

    ndcg: np.ndarray
    recall: np.ndarray
    coverage: float
    """Share of the catalogue that is in anybody's list, 0 to 1."""

    def to_metrics(self, *, k: int, prefix: str = "") -> dict[str, float]:
        """Means over people, by metric name."""
        return {
            f"{prefix}ndcg_at_{k}": float(self.ndcg.mean()),
            f"{prefix}recall_at_{k}": float(self.recall.mean()),
            f"{prefix}coverage_at_{k}": self.coverage,
        }


def judge(
    lists: Mapping[str, Sequence[str]], *, bought: Mapping[str, Collection[str]], k: int, catalogue_size: int
) -> ListScores:
    """Judge the first `k` of each person's list by what they then bought, at least one item each."""
    hits = np.zeros((len(bought), k), dtype=bool)
    for row, (user, items) in enumerate(bought.items()):
        for rank, item in enumerate(lists[user][:k]):
            hits[row, rank] = item in items
    relevant = np.array([len(items) for items in bought.values()])
    shown = {item for user in bought for item in lists[user][:k]}
    return ListScores(
        ndcg_at_k(hits, relevant=relevant), recall_at_k(hits, relevant=relevant), len(shown) / max(1, catalogue_size)
    )


def top_indices(scores: np.ndarray, *, n: int) -> np.ndarray:
    """Indices of the `n` largest finite scores, best first; ties go to the lower index."""
    finite = np.flatnonzero(np.isfinite(scores))
    if len(finite) > n:
        bound = np.partition(scores[finite], len(finite) - n)[len(finite) - n]
        finite = finite[scores[finite] >= bound]
    return finite[np.argsort(-scores[finite], kind="stable")][:n]
