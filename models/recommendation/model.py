"""Recommendation: what a person may buy next, by a blend of habit, taste, popularity and category learned from the past.

The stored model holds *items* and trees, never a person. What is known of a person is read while answering, from the
sequence features that were just read for them, so a withdrawal works at once and a new purchase counts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import xgboost as xgb

from aap.features.datasets import Interactions
from aap.modeling.algorithms.als import ItemFactors
from aap.modeling.algorithms.single_threaded import one_thread
from aap.modeling.base import Model, Retrieval
from aap.modeling.errors import CorruptArtifact, SchemaMismatch, TooFewRows, UnknownStrategy
from aap.modeling.evaluation.ranking import Recommendation, top_indices
from aap.modeling.interactions import Purchases, fewest_buyers
from aap.modeling.list_constraints import Wishes, fill, take
from aap.modeling.registry.artifacts import read_arrays, read_json, write_arrays, write_json
from models.popularity.model import recent_shares
from models.recommendation.candidates import Candidates, Shelf
from models.recommendation.item_features import ItemFacts
from models.recommendation.parameters import RecommendationParameters
from models.recommendation.purchase_history import History
from models.recommendation.ranker import Blend
from models.recommendation.training_examples import Lessons, shelf_at

__all__ = ["STRATEGIES", "RecommendationModel"]

STRATEGIES = ("buy_again", "discover")
_FEWEST_ITEMS = 10


@dataclass(frozen=True, slots=True, eq=False)
class RecommendationModel(Model[Interactions, RecommendationParameters]):
    """A shelf of items, a blend for each strategy, and what is popular to fall back on."""

    name: ClassVar[str] = "recommendation"
    service: ClassVar[str] = "recommendation"
    predicts: ClassVar[tuple[str, ...]] = ("item_id", "score", "reason")
    parameters_type: ClassVar[type] = RecommendationParameters

    features: tuple[str, ...]
    """Two sequence features, newest first, line by line: the items bought, and the baskets they were in."""
    item_ids: tuple[str, ...]
    categories: tuple[str, ...]
    shelf: Shelf
    popularity: np.ndarray
    """float64 `[n_items]`: share of recent customers who bought it."""
    blends: dict[str, Blend]
    """One a strategy."""
    sizes: tuple[int, int, int]
    """How many of a person's own items are looked at, how many new ones beside them, and how many to discover."""
    codes: dict[str, int]
    """Position of each item id; derived from `item_ids`."""

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: RecommendationParameters
    ) -> Interactions:
        """Every purchase up to `until`."""
        return retrieval.interactions(cls.service, as_of=as_of, until=until)

    @classmethod
    def held_out(
        cls,
        retrieval: Retrieval,
        *,
        cut: datetime,
        until: datetime,
        as_of: datetime,
        parameters: RecommendationParameters,
    ) -> Interactions:
        """Purchases after the cut."""
        return retrieval.interactions(cls.service, as_of=as_of, since=cut, until=until)

    @classmethod
    def fit(cls, data: Interactions, *, parameters: RecommendationParameters, seed: int) -> Self:
        """Factorize people × items, and learn from past cuts how to blend; rarely bought items are left out."""
        bought = Purchases.of(data)
        needed = fewest_buyers(parameters.min_buyers, people=len(bought.user_keys))
        kept = np.flatnonzero(bought.distinct_buyers() >= needed)
        if len(kept) < _FEWEST_ITEMS:
            raise TooFewRows(f"Items bought by {needed} people or more", found=len(kept), needed=_FEWEST_ITEMS)
        item_ids, until = tuple(bought.item_ids[i] for i in kept), int(bought.moments.max())
        categories, category = bought.categories_of(kept)
        lessons = Lessons.of(bought, kept=kept, category=category, until=until, parameters=parameters, seed=seed)
        shelf = shelf_at(bought, kept=kept, category=category, until=until, parameters=parameters, seed=seed)
        blends = {
            strategy: Blend.fit(given, features=shelf.features, parameters=parameters, seed=seed)
            for strategy, given in zip(STRATEGIES, (lessons.again, lessons.discover), strict=True)
        }
        return cls(
            features=(parameters.items_sequence, parameters.baskets_sequence),
            item_ids=item_ids,
            categories=categories,
            shelf=shelf,
            popularity=recent_shares(data, item_ids, weeks=parameters.popularity_weeks, needed=needed),
            blends=blends,
            sizes=(parameters.own_candidates, parameters.new_candidates, parameters.discoveries),
            codes={item: i for i, item in enumerate(item_ids)},
        )

    def recommend(
        self,
        items: Sequence[Sequence[str]],
        *,
        baskets: Sequence[Sequence[str]],
        n: int,
        strategy: str = "buy_again",
        wishes: Wishes | None = None,
    ) -> list[list[Recommendation]]:
        """The best `n` items for each person, best first; the score is the chance of buying it within the horizon.

        `items`: one list a person of purchased item ids, newest first, with repeats; `baskets`: the basket of each.
        `buy_again` ranks what they bought and what is to their taste; `discover` only what is not in the list.
        Someone of whom no item in the catalogue is known gets what is popular. A person's answer never depends on who
        else is in the batch. Raises `UnknownStrategy`, `SchemaMismatch`.
        """
        if strategy not in STRATEGIES:
            raise UnknownStrategy(f"No strategy {strategy!r}; choose one of: {', '.join(STRATEGIES)}.")
        wanted = wishes or Wishes()
        allowed = wanted.mask(self.item_ids, self.codes, self.categories, self.shelf.facts.category)
        history = History.of_sequences(items, baskets, codes=self.codes)
        known = np.unique(history.person[history.item >= 0])
        lists = [self._popular(n, allowed, wanted) if not len(known) else [] for _ in items]
        again = strategy == "buy_again"
        own, new, discoveries = self.sizes
        with one_thread():
            parts = self.shelf.in_parts(
                history, again=own if again else 0, new=max(n, new if again else discoveries), allowed=allowed
            )
            for part in parts if len(known) else ():
                self._rank(part, lists, n=n, strategy=strategy, wanted=wanted, history=history)
        strangers = sorted(set(range(len(items))) - set(known.tolist()))
        popular = self._popular(n, allowed, wanted) if strangers else []
        for person in strangers:
            lists[person] = popular
        return lists

    def _rank(
        self,
        part: Candidates,
        lists: list[list[Recommendation]],
        *,
        n: int,
        strategy: str,
        wanted: Wishes,
        history: History,
    ) -> None:
        scores = self.blends[strategy].score(part.values)
        edges = np.flatnonzero(np.diff(part.person, prepend=-1))
        for first, end in zip(edges, np.append(edges[1:], len(part.person)), strict=True):
            order = first + np.lexsort((part.item[first:end], -part.taste[first:end], -scores[first:end]))
            best = take(order, part.item, self.shelf.facts.category, n=n, most=wanted.most_a_category)
            lists[int(part.person[first])] = self._told(best, part, scores, history)

    def _told(self, rows: np.ndarray, part: Candidates, scores: np.ndarray, history: History) -> list[Recommendation]:
        person = int(part.person[rows[0]]) if len(rows) else 0
        first, end = np.searchsorted(history.person, [person, person + 1])
        bought, visit = history.item[first:end], history.visit[first:end]
        goes_with = self._companions(part.item[rows], bought, visit)
        found = []
        for row, companion in zip(rows.tolist(), goes_with, strict=True):
            code = int(part.item[row])
            if part.place[row] < 0:
                times = np.unique(visit[bought == code])
                told = Recommendation(
                    self.item_ids[code], float(scores[row]), "bought_before", times=len(times), visits_ago=int(times[0])
                )
            else:
                told = Recommendation(self.item_ids[code], float(scores[row]), "similar_taste", because=companion)
            found.append(told)
        return found

    def _companions(self, shown: np.ndarray, bought: np.ndarray, visit: np.ndarray) -> list[str | None]:
        """Of each item shown, what the person bought that it goes with best: by cosine, of the last twenty visits."""
        own = np.unique(bought[(bought >= 0) & (visit < 20)])
        if not len(own):
            return [None] * len(shown)
        near = self.shelf.factors.cosines(shown, own)
        near[shown[:, None] == own[None, :]] = -np.inf
        return [self.item_ids[own[int(row.argmax())]] if np.isfinite(row.max()) else None for row in near]

    def _popular(self, n: int, allowed: np.ndarray | None, wanted: Wishes) -> list[Recommendation]:
        scores = self.popularity if allowed is None else np.where(allowed, self.popularity, -np.inf)
        order = top_indices(scores, n=len(scores) if wanted.most_a_category else n)
        rows = fill(order, self.shelf.facts.category, n=n, most=wanted.most_a_category)
        return [Recommendation(self.item_ids[i], float(scores[i]), "popular") for i in rows.tolist()]

    def similar(self, item_id: str, n: int) -> list[Recommendation]:
        """Items whose factors point the same way (cosine, −1 to 1), best first; nothing for an unknown item."""
        if item_id not in self.codes:
            return []
        scores = self.shelf.factors.cosine(self.codes[item_id])
        scores[self.codes[item_id]] = -np.inf
        best = top_indices(scores, n=n).tolist()
        return [Recommendation(self.item_ids[i], float(scores[i]), "similar_item", because=item_id) for i in best]

    def save(self, folder: Path) -> None:
        """`model.json` (items, names of what is read), `shelf.npz`, and a ubj for each blend."""
        content = {
            "sequences": self.features,
            "item_ids": self.item_ids,
            "categories": self.categories,
            "sizes": self.sizes,
            "facts": self.shelf.facts.names,
            "habits": self.shelf.habits,
        }
        write_json(folder / "model.json", content)
        facts = self.shelf.facts
        arrays = {
            "items": self.shelf.factors.items,
            "regularization": np.array([self.shelf.factors.regularization]),
            "popularity": self.popularity,
            "facts": np.column_stack([facts.columns[name] for name in facts.names]),
            "category": facts.category,
        }
        write_arrays(folder / "shelf.npz", arrays)
        for strategy, blend in self.blends.items():
            (folder / f"{strategy}.ubj").write_bytes(blend.to_bytes())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        content = read_json(folder / "model.json")
        names = ("items", "regularization", "popularity", "facts", "category")
        items, regularization, popularity, table, category = read_arrays(folder / "shelf.npz", *names)
        try:
            ids = tuple(content["item_ids"])
            if not len(ids) == len(items) == len(popularity) == len(table) == len(category):
                raise CorruptArtifact(
                    f"{cls.name} has {len(ids)} items but {len(items)} factors; retrain or roll back."
                )
            facts = ItemFacts({name: table[:, i] for i, name in enumerate(content["facts"])}, category)
            factors = ItemFactors.of(items, regularization=float(regularization[0]))
            shelf = Shelf(factors, facts, tuple(content["habits"]))
            blends = {
                strategy: Blend.from_bytes((folder / f"{strategy}.ubj").read_bytes(), features=shelf.features)
                for strategy in STRATEGIES
            }
            own, new, discoveries = (int(size) for size in content["sizes"])
            return cls(
                tuple(content["sequences"]),
                ids,
                tuple(content["categories"]),
                shelf,
                popularity,
                blends,
                (own, new, discoveries),
                {item: i for i, item in enumerate(ids)},
            )
        except (OSError, KeyError, TypeError, ValueError, IndexError, xgb.core.XGBoostError) as error:
            if isinstance(error, (CorruptArtifact, SchemaMismatch)):
                raise
            why = str(error).splitlines()[0]
            raise CorruptArtifact(f"Can't read the stored model {cls.name} ({why}); retrain or roll back.") from None
