"""The lessons of the recommender: past moments at which the blend is asked what people would buy next, and learns.

At each cut everything is as it was then: item vectors, item facts and histories are made from lines up to the cut, and
the answer is what was bought in the horizon after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aap.features.declarations import DAY_US
from aap.modeling.algorithms.als import factorize
from aap.modeling.interactions import Purchases
from models.recommendation.candidates import Shelf
from models.recommendation.item_features import ItemFacts
from models.recommendation.parameters import RecommendationParameters
from models.recommendation.purchase_history import History
from models.recommendation.ranker import Lesson

__all__ = ["Lessons", "bought_after", "shelf_at"]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learned for each strategy."""

    again: list[Lesson]
    discover: list[Lesson]

    @classmethod
    def of(
        cls,
        bought: Purchases,
        *,
        kept: np.ndarray,
        category: np.ndarray,
        until: int,
        parameters: RecommendationParameters,
        seed: int,
    ) -> Lessons:
        """Newest first; a cut with nothing before it teaches nothing."""
        found = cls([], [])
        position = _position(bought, kept)
        for cut in _cuts(bought, until=until, parameters=parameters):
            shelf = shelf_at(bought, kept=kept, category=category, until=cut, parameters=parameters, seed=seed)
            history = History.of_purchases(bought, position=position, limit=parameters.sequence_length, until=cut)
            after = bought_after(bought, position, items=len(kept), since=cut, days=parameters.horizon_days)
            before = bought_after(bought, position, items=len(kept), since=None, until=cut)
            new = after[~np.isin(after, before)]
            shown = shelf.in_parts(
                history, again=parameters.own_candidates, new=max(parameters.new_candidates, parameters.discoveries)
            )
            for part in shown:
                again = part.place < parameters.new_candidates
                found.again.append(Lesson.of(part, rows=again, bought=after, items=len(kept)))
                found.discover.append(Lesson.of(part, rows=part.place >= 0, bought=new, items=len(kept)))
        return found


def shelf_at(
    bought: Purchases,
    *,
    kept: np.ndarray,
    category: np.ndarray,
    until: int,
    parameters: RecommendationParameters,
    seed: int,
) -> Shelf:
    """The shelf as it was at `until` (microseconds)."""
    factors = factorize(
        bought,
        kept=kept,
        factors=parameters.factors,
        regularization=parameters.regularization,
        iterations=parameters.iterations,
        seed=seed,
        until=until,
        als=parameters.als,
    )
    position = _position(bought, kept)
    return Shelf.of(factors, ItemFacts.of(bought, position=position, items=len(kept), category=category, until=until))


def bought_after(
    bought: Purchases,
    position: np.ndarray,
    *,
    items: int,
    since: int | None,
    days: int | None = None,
    until: int | None = None,
) -> np.ndarray:
    """The sorted keys person × `items` + item of what was bought in `(since, since + days]`, or up to `until`."""
    end = until if until is not None else (since or 0) + (days or 0) * DAY_US
    lines = (position[bought.items] >= 0) & (bought.moments <= end)
    if since is not None:
        lines &= bought.moments > since
    return np.unique(bought.users[lines] * items + position[bought.items[lines]])


def _position(bought: Purchases, kept: np.ndarray) -> np.ndarray:
    position = np.full(len(bought.item_ids), -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    return position


def _cuts(bought: Purchases, *, until: int, parameters: RecommendationParameters) -> Sequence[int]:
    """Moments whose horizon had passed at `until`, and that leave a horizon of history before them."""
    last, oldest = until - parameters.horizon_days * DAY_US, int(bought.moments.min(initial=until))
    every = [last - i * parameters.cut_step_days * DAY_US for i in range(parameters.cuts)]
    return [cut for cut in every if cut - oldest >= parameters.horizon_days * DAY_US] or every[:1]
