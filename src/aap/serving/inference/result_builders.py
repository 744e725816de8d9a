"""From what a model is given to what it says: pure functions, the same for an answer and for its replay.

A person's result never depends on who else is asked about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from aap.modeling.list_constraints import Wishes
from aap_client.requests import Explained, Ranked
from aap_client.responses import AnomalyResult, ChurnResult, Item, SegmentResult

__all__ = [
    "FROM_VALUES",
    "History",
    "anomalies",
    "churn",
    "explanations",
    "items",
    "mentioned",
    "popular",
    "recommended",
    "segments",
    "similar",
]

History = Sequence[Sequence[str]]
"""What one person bought, newest first, line by line: the items, and the basket each was in."""

_NOW = "now"
"""The basket that is being filled."""


class RankedItem(Protocol):
    """What is needed of `aap.modeling.evaluation.ranking.Recommendation`."""

    @property
    def item_id(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def because(self) -> str | None: ...
    def explain(self, names: Mapping[str, str | None]) -> str: ...


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
    model: Any, histories: Sequence[History], *, strategy: str, asked: Ranked, among: Collection[str] | None = None
) -> list[list[Any]]:
    """A ranked list a person; only items of `among` if given, and never what is excluded or in the basket."""
    basket = asked.context.basket
    lists: list[list[Any]] = model.recommend(
        [[*basket, *items] for items, _ in histories],
        baskets=[[*[_NOW] * len(basket), *baskets] for _, baskets in histories],
        n=asked.n,
        strategy=strategy,
        wishes=Wishes(
            without=(*asked.filters.exclude_items, *basket), among=among, most_a_category=asked.most_a_category
        ),
    )
    return lists


def popular(
    model: Any, *, asked: Ranked, among: Collection[str] | None = None, categories: Mapping[str, str] | None = None
) -> list[Any]:
    """The most popular items, for people who are answered from nothing about them.

    `categories` of items, where no more than `asked.most_a_category` of one may show.
    """
    return _first_allowed(model.top, asked=asked, among=among, categories=categories or {})


def similar(model: Any, item_id: str, *, n: int) -> list[Any]:
    """The items most like `item_id`, best first; none for an unknown one."""
    found: list[Any] = model.similar(item_id, n=n)
    return found


def items(ranked: Sequence[RankedItem], names: Mapping[str, str | None], *, explain: bool = False) -> tuple[Item, ...]:
    """Ranked items as they are shown."""
    return tuple(
        Item(r.item_id, names.get(r.item_id), r.score, r.reason, r.explain(names) if explain else None) for r in ranked
    )


def explanations(ranked: Sequence[RankedItem]) -> tuple[str, ...]:
    """Why each item is there, as sentences that name other items by their ids: so the catalogue has no part in them."""
    return tuple(r.explain({}) for r in ranked)


def mentioned(lists: Iterable[Sequence[RankedItem]]) -> Iterator[str]:
    """The items whose names it takes to show these."""
    return (i for ranked in lists for r in ranked for i in (r.item_id, r.because) if i is not None)


def _first_allowed(
    rank: Callable[[int], list[R]], *, asked: Ranked, among: Collection[str] | None, categories: Mapping[str, str]
) -> list[R]:
    """The first `asked.n` items of a ranking that may be shown; the ranking is asked for more until there are enough."""
    hidden = {*asked.filters.exclude_items, *asked.context.basket}
    sifted = among is not None or bool(categories)
    ask_for = (4 * asked.n if sifted else asked.n) + len(hidden)
    while True:
        ranked = rank(ask_for)
        kept = [r for r in ranked if r.item_id not in hidden and (among is None or r.item_id in among)]
        kept = _varied(kept, categories, most=asked.most_a_category)
        if len(kept) >= asked.n or len(ranked) < ask_for:
            return kept[: asked.n]
        ask_for *= 4


def _varied(ranked: list[R], categories: Mapping[str, str], *, most: int | None) -> list[R]:
    """The first `most` of each category; items without one are never too many."""
    if most is None:
        return ranked
    shown: Counter[str] = Counter()
    kept = []
    for one in ranked:
        kind = categories.get(one.item_id)
        if kind is None or shown[kind] < most:
            kept.append(one)
        if kind is not None:
            shown[kind] += 1
    return kept
