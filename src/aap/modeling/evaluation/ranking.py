"""Ranked lists of items: one recommendation, and how lists are judged against what people went on to buy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aap.modeling.evaluation.metrics import average_popularity, coverage, ndcg_at_k, recall_at_k

__all__ = ["ListScores", "Recommendation", "judge", "top_indices"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a ranked list."""

    item_id: str
    score: float
    """Higher is better; comparable within one list only."""
    reason: str
    """Why it is there: `bought_before`, `similar_taste`, `similar_item` or `popular`."""
    because: str | None = None
    """What the person bought, or asked about, that it goes with best: an item id."""
    times: int = 0
    """In how many of their visits the person bought it."""
    visits_ago: int = 0
    """How many visits ago that was last; 0 is the newest."""

    def explain(self, names: Mapping[str, str | None]) -> str:
        """The reason as a sentence; `names` says how items are called."""
        if self.reason == "bought_before":
            when = "in the last visit" if not self.visits_ago else f"last {self.visits_ago + 1} visits ago"
            return f"Bought in {self.times} visit{'s' if self.times > 1 else ''}, {when}."
        if self.because is not None:
            return f"Goes with {names.get(self.because) or self.because}."
        return "Popular with many customers." if self.reason == "popular" else "To the taste of similar customers."


@dataclass(frozen=True, slots=True)
class ListScores:
    """How each person's list did, float64 `[n_users]` each."""

    ndcg: np.ndarray
    recall: np.ndarray
    coverage: float
    """Share of the catalogue that is in anybody's list, 0 to 1."""
    popularity_bias: float = float("nan")
    """How popular what is shown is, 0 to 1 (`metrics.average_popularity`); lower is more daring."""

    def to_metrics(self, *, k: int, prefix: str = "") -> dict[str, float]:
        """Means over people, by metric name."""
        return {
            f"{prefix}ndcg_at_{k}": float(self.ndcg.mean()),
            f"{prefix}recall_at_{k}": float(self.recall.mean()),
            f"{prefix}coverage_at_{k}": self.coverage,
            **({f"{prefix}popularity_bias_at_{k}": self.popularity_bias} if self.popularity_bias >= 0 else {}),
        }


def judge(
    lists: Mapping[str, Sequence[str]],
    *,
    bought: Mapping[str, Collection[str]],
    k: int,
    catalogue_size: int,
    popularity: Mapping[str, float] | None = None,
) -> ListScores:
    """Judge the first `k` of each person's list by what they then bought, at least one item each.

    `popularity`: share of buyers of each item, to tell how popular the lists are.
    """
    hits = np.zeros((len(bought), k), dtype=bool)
    for row, (user, items) in enumerate(bought.items()):
        for rank, item in enumerate(lists[user][:k]):
            hits[row, rank] = item in items
    relevant = np.array([len(items) for items in bought.values()])
    shown = [lists[user][:k] for user in bought]
    return ListScores(
        ndcg_at_k(hits, relevant=relevant),
        recall_at_k(hits, relevant=relevant),
        coverage(shown, catalogue_size=catalogue_size),
        average_popularity(shown, popularity=popularity) if popularity else float("nan"),
    )


def top_indices(scores: np.ndarray, *, n: int) -> np.ndarray:
    """Indices of the `n` largest finite scores, best first; ties go to the lower index."""
    finite = np.flatnonzero(np.isfinite(scores))
    if n <= 0:
        return finite[:0]
    if len(finite) > n:
        bound = np.partition(scores[finite], len(finite) - n)[len(finite) - n]
        finite = finite[scores[finite] >= bound]
    return finite[np.argsort(-scores[finite], kind="stable")][:n]
