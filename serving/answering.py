"""From what a model is given to what it says: pure functions, the same for an answer and for its replay.

A person's result never depends on who else is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from serving.answers import AnomalyResult, ChurnResult, Item, SegmentResult
from serving.requests import Explained, Ranked

__all__ = ["FROM_VALUES", "anomalies", "churn", "items", "popular", "recommended", "segments", "similar"]


class RankedItem(Protocol):
    """What is needed of `models.ranking.Recommendation`."""

    @property
    def item_id(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def reason(self) -> str: ...


R = TypeVar("R", bound=RankedItem)


def churn(model: Any, values: np.ndarray, *, asked: Explained) -> list[ChurnResult]:
    """One result a row of `values`."""
    scores: list[float] = model.score(values).tolist()
    if not asked.explain:
        return [ChurnResult(p, model.horizon_days) for p in scores]
    reasons = model.reasons(values)
    return [ChurnResult(p, model.horizon_days, tuple(why)) for p, why in zip(scores, reasons, strict=True)]


def segments(model: Any, values: np.ndarray, *, asked: Explained) -> list[SegmentResult]:
    """One result a row of `values`; a segment's name says what it is, so there is nothing more to explain."""
    return [SegmentResult(a.segment, a.name, a.distance) for a in model.assign(values)]


def anomalies(model: Any, values: np.ndarray, *, asked: Explained) -> list[AnomalyResult]:
    """One result a row of `values`."""
    limit, scores = float(model.threshold), model.score(values).tolist()
    if not asked.explain:
        return [AnomalyResult(s, limit, s > limit) for s in scores]
    return [AnomalyResult(s, limit, s > limit, tuple(d)) for s, d in zip(scores, model.drivers(values), strict=True)]


FROM_VALUES: Mapping[str, Callable[..., Sequence[Any]]] = {
    "churn": churn,
    "segments": segments,
    "anomalies": anomalies,
}
"""By endpoint, for the models that read one row of numbers a person."""


def recommended(
    model: Any,
    sequences: Sequence[Sequence[str]],
    *,
    strategy: str,
    asked: Ranked,
    among: Collection[str] | None = None,
) -> list[list[Any]]:
    """A ranked list a sequence; only items of `among` if given, and never what is excluded or in the basket."""
    basket = list(asked.context.basket)
    sequences = [[*basket, *sequence] for sequence in sequences] if basket else sequences
    if among is None and not basket and not asked.filters.exclude_items:
        lists: list[list[Any]] = model.recommend(sequences, n=asked.n, strategy=strategy)
        return lists

    def rank_one(sequence: Sequence[str]) -> list[Any]:
        def rank(n: int) -> list[Any]:
            return list(model.recommend([sequence], n=n, strategy=strategy)[0])

        return _first_allowed(rank, asked=asked, among=among)

    return [rank_one(sequence) for sequence in sequences]


def popular(model: Any, *, asked: Ranked, among: Collection[str] | None = None) -> list[Any]:
    """The most popular items, for people who are answered from nothing about them."""
    return _first_allowed(model.top, asked=asked, among=among)


def similar(model: Any, item_id: str, *, n: int) -> list[Any]:
    """The items most like `item_id`, best first; none for an unknown one."""
    found: list[Any] = model.similar(item_id, n=n)
    return found


def items(ranked: Sequence[RankedItem], names: Mapping[str, str | None]) -> tuple[Item, ...]:
    """Ranked items as they are shown."""
    return tuple(Item(r.item_id, names.get(r.item_id), r.score, r.reason) for r in ranked)


def _first_allowed(rank: Callable[[int], list[R]], *, asked: Ranked, among: Collection[str] | None) -> list[R]:
    """The first `asked.n` items of a ranking that may be shown; the ranking is asked for more until there are enough."""
    hidden = {*asked.filters.exclude_items, *asked.context.basket}
    ask_for = asked.n + len(hidden) if among is None else 4 * asked.n + len(hidden)
    while True:
        ranked = rank(ask_for)
        kept = [r for r in ranked if r.item_id not in hidden and (among is None or r.item_id in among)]
        if len(kept) >= asked.n or len(ranked) < ask_for:
            return kept[: asked.n]
        ask_for *= 4
