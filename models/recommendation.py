"""Recommendation: what a person may buy next, from alternating least squares over items and their own recent purchases.

The stored model holds *item* factors and never a person. A person's own vector is folded in while answering, from the
sequence feature that was just read for them, so a withdrawal works at once and a new purchase counts at once.
Hu, Koren & Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from feature_repo.frame import Interactions
from models.artifact import read_arrays, read_json, write_arrays, write_json
from models.contract import Model, Retrieval
from models.errors import CorruptArtifact, TooFewRows, UnknownStrategy
from models.evaluation import Evaluation
from models.factors import ItemFactors, factorize
from models.one_thread import one_thread
from models.purchases import Purchases, fewest_buyers
from models.ranking import Recommendation, top_indices

__all__ = ["STRATEGIES", "RecommendationModel", "RecommendationParameters"]

STRATEGIES = ("buy_again", "discover")
_FEWEST_ITEMS = 10


@dataclass(frozen=True, slots=True)
class RecommendationParameters:
    """Section `recommendation` of training.yaml; what each means is said there."""

    horizon_days: int
    factors: int
    regularization: float
    iterations: int
    min_buyers: int
    popularity_weeks: int
    sequence: str
    sequence_length: int
    half_life_lines: float
    recency_weight: float
    taste_weight: float
    popularity_weight: float


@dataclass(frozen=True, slots=True, eq=False)
class RecommendationModel(Model[Interactions, RecommendationParameters]):
    """Item factors, a popularity ranking to fall back on, and how to blend them with a person's own habits."""

    name: ClassVar[str] = "recommendation"
    service: ClassVar[str] = "recommendation"
    predicts: ClassVar[tuple[str, ...]] = ("item_id", "score", "reason")
    parameters_type: ClassVar[type] = RecommendationParameters

    features: tuple[str, ...]
    """The one sequence feature: purchased item ids, newest first, with repeats."""
    item_ids: tuple[str, ...]
    factors: ItemFactors
    popularity: np.ndarray
    """float64 `[n_items]`: share of recent customers who bought it."""
    half_life_lines: float
    recency_weight: float
    taste_weight: float
    popularity_weight: float
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
        """Factorize people × items by log1p of how often; items with too few different buyers are left out."""
        bought = Purchases.of(data)
        needed = fewest_buyers(parameters.min_buyers, people=len(bought.user_keys))
        kept = np.flatnonzero(bought.distinct_buyers() >= needed)
        if len(kept) < _FEWEST_ITEMS:
            raise TooFewRows(f"Items bought by {needed} people or more", found=len(kept), needed=_FEWEST_ITEMS)
        factors = factorize(
            bought,
            kept=kept,
            factors=parameters.factors,
            regularization=parameters.regularization,
            iterations=parameters.iterations,
            seed=seed,
        )
        item_ids = tuple(bought.item_ids[i] for i in kept)
        popularity = _recent_shares(data, item_ids, weeks=parameters.popularity_weeks, needed=needed)
        return cls._of(item_ids, factors, popularity, asdict(parameters))

    @classmethod
    def _of(
        cls, item_ids: tuple[str, ...], factors: ItemFactors, popularity: np.ndarray, blend: dict[str, float]
    ) -> Self:
        return cls(
            features=(str(blend["sequence"]),),
            item_ids=item_ids,
            factors=factors,
            popularity=popularity,
            half_life_lines=float(blend["half_life_lines"]),
            recency_weight=float(blend["recency_weight"]),
            taste_weight=float(blend["taste_weight"]),
            popularity_weight=float(blend["popularity_weight"]),
            codes={item: i for i, item in enumerate(item_ids)},
        )

    def recommend(
        self, sequences: Sequence[Sequence[str]], *, n: int, strategy: str = "buy_again"
    ) -> list[list[Recommendation]]:
        """The best `n` items for each person, best first.

        `sequences`: one list a person of purchased item ids, newest first, with repeats. `buy_again` ranks all items by
        personal habit blended with taste; `discover` ranks what is not in the sequence by taste and some popularity.
        Someone of whom no item in the catalogue is known gets what is popular. A person's answer never depends on who
        else is in the batch.
        Raises `UnknownStrategy`.
        """
        if strategy not in STRATEGIES:
            raise UnknownStrategy(f"No strategy {strategy!r}; choose one of: {', '.join(STRATEGIES)}.")
        with one_thread():
            return [self._recommend(sequence, n=n, again=strategy == "buy_again") for sequence in sequences]

    def _recommend(self, sequence: Sequence[str], *, n: int, again: bool) -> list[Recommendation]:
        lines = [self.codes.get(item, -1) for item in sequence]
        owned, counts, recency = self._habits(np.array(lines, dtype=np.int64))
        if not len(owned):
            return self._listed(self.popularity, n=n, reasons={}, otherwise="popular")
        scores = self.factors.scores(owned, counts)
        if again:
            habit = np.log1p(counts) + self.recency_weight * recency
            scores = self.taste_weight * scores
            scores[owned] += habit
            return self._listed(
                scores, n=n, reasons=dict.fromkeys(owned.tolist(), "bought_before"), otherwise="similar_taste"
            )
        scores = scores + self.popularity_weight * self.popularity
        scores[owned] = -np.inf
        return self._listed(scores, n=n, reasons={}, otherwise="similar_taste")

    def _habits(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Item codes in a sequence (−1 is unknown), how often each occurs, and its Σ ½^(position / half-life)."""
        known = lines >= 0
        weights = 0.5 ** (np.flatnonzero(known) / self.half_life_lines)
        owned, inverse = np.unique(lines[known], return_inverse=True)
        return owned, np.bincount(inverse, minlength=len(owned)), np.bincount(inverse, weights, minlength=len(owned))

    def _listed(self, scores: np.ndarray, *, n: int, reasons: dict[int, str], otherwise: str) -> list[Recommendation]:
        best = top_indices(scores, n=n).tolist()
        return [Recommendation(self.item_ids[i], float(scores[i]), reasons.get(i, otherwise)) for i in best]

    def similar(self, item_id: str, n: int) -> list[Recommendation]:
        """Items whose factors point the same way (cosine, −1 to 1), best first; nothing for an unknown item."""
        if item_id not in self.codes:
            return []
        scores = self.factors.cosine(self.codes[item_id])
        scores[self.codes[item_id]] = -np.inf
        return self._listed(scores, n=n, reasons={}, otherwise="similar_item")

    def evaluate(
        self, held_out: Interactions, *, train: Interactions, parameters: RecommendationParameters, seed: int
    ) -> Evaluation:
        """Rank the whole catalogue for everyone with history, against what they bought after the cut."""
        from models.recommendation_trial import evaluate

        return evaluate(self, held_out=held_out, train=train, parameters=parameters, seed=seed)

    def save(self, folder: Path) -> None:
        """`model.json` (items, blend) and `factors.npz`."""
        blend = {
            "sequence": self.features[0],
            "half_life_lines": self.half_life_lines,
            "recency_weight": self.recency_weight,
            "taste_weight": self.taste_weight,
            "popularity_weight": self.popularity_weight,
        }
        write_json(folder / "model.json", {"item_ids": self.item_ids, "blend": blend})
        regularization = np.array([self.factors.regularization])
        arrays = {"items": self.factors.items, "popularity": self.popularity, "regularization": regularization}
        write_arrays(folder / "factors.npz", arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json` and `factors.npz`."""
        content = read_json(folder / "model.json")
        items, popularity, regularization = read_arrays(folder / "factors.npz", "items", "popularity", "regularization")
        try:
            ids = tuple(content["item_ids"])
            if not len(ids) == len(items) == len(popularity):
                raise CorruptArtifact(
                    f"{cls.name} has {len(ids)} items but {len(items)} factors; retrain or roll back."
                )
            return cls._of(
                ids, ItemFactors.of(items, regularization=float(regularization[0])), popularity, content["blend"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"model.json of {cls.name} lacks {error}; retrain or roll back.") from None


def _recent_shares(data: Interactions, item_ids: tuple[str, ...], *, weeks: int, needed: int) -> np.ndarray:
    """Share of the people who bought anything in the last `weeks` of `data` that bought each item; 0 below `needed`."""
    newest: datetime = data.table["occurred_at"].to_pandas().max()
    recent = Purchases.of(data, since=newest - timedelta(weeks=weeks))
    buyers = recent.distinct_buyers()
    told = np.where(buyers >= needed, buyers / max(1, len(recent.user_keys)), 0.0)
    shares = dict(zip(recent.item_ids, told, strict=True))
    return np.array([shares.get(item, 0.0) for item in item_ids])
