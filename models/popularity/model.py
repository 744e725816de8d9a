"""Popularity: the items bought by the most different people lately; the answer for everyone who said no.

It knows nothing of the person it answers, and an item shows only when at least k people bought it (k-anonymity), so no
single purchase can be read from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from aap.features.datasets import Interactions
from aap.modeling.base import Model, Retrieval
from aap.modeling.errors import CorruptArtifact, TooFewRows
from aap.modeling.evaluation.ranking import Recommendation
from aap.modeling.interactions import Purchases, fewest_buyers
from aap.modeling.registry.artifacts import read_json, write_json

__all__ = ["Popularity", "PopularityParameters", "recent_shares"]


@dataclass(frozen=True, slots=True)
class PopularityParameters:
    """Section `popularity` of training.yaml; what each means is said there."""

    horizon_days: int
    weeks: int
    min_buyers: int
    most_items: int


@dataclass(frozen=True, slots=True, eq=False)
class Popularity(Model[Interactions, PopularityParameters]):
    """Items by their share of recent buyers."""

    name: ClassVar[str] = "popularity"
    service: ClassVar[str] = "recommendation"
    predicts: ClassVar[tuple[str, ...]] = ("item_id", "score")
    parameters_type: ClassVar[type] = PopularityParameters

    features: tuple[str, ...]
    item_ids: tuple[str, ...]
    """Best first."""
    shares: tuple[float, ...]
    """Share of the people who bought anything that bought this, 0 to 1, one an item."""
    buyers_needed: int

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: PopularityParameters
    ) -> Interactions:
        """Purchases of the last `weeks` before `until`."""
        since = until - timedelta(weeks=parameters.weeks)
        return retrieval.interactions(cls.service, as_of=as_of, since=since, until=until)

    @classmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: PopularityParameters
    ) -> Interactions:
        """Purchases after the cut."""
        return retrieval.interactions(cls.service, as_of=as_of, since=cut, until=until)

    @classmethod
    def fit(cls, data: Interactions, *, parameters: PopularityParameters, seed: int) -> Self:
        """Count distinct buyers; `seed` is not used, nothing is drawn."""
        bought = Purchases.of(data)
        needed = fewest_buyers(parameters.min_buyers, people=len(bought.user_keys))
        buyers = bought.distinct_buyers()
        order = np.argsort(-buyers, kind="stable")
        kept = [int(i) for i in order if buyers[i] >= needed][: parameters.most_items]
        if not kept:
            what = f"Most buyers of any one item in the last {parameters.weeks} weeks"
            raise TooFewRows(what, found=int(buyers.max(initial=0)), needed=needed)
        shares = tuple(float(buyers[i]) / len(bought.user_keys) for i in kept)
        return cls((), tuple(bought.item_ids[i] for i in kept), shares, needed)

    def top(self, n: int) -> list[Recommendation]:
        """The `n` most popular items, best first; fewer when there are fewer. The score is the share of buyers."""
        best = zip(self.item_ids[:n], self.shares[:n], strict=True)
        return [Recommendation(item, share, "popular") for item, share in best]

    def save(self, folder: Path) -> None:
        """One JSON file."""
        write_json(folder / "model.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json`."""
        content: dict[str, Any] = read_json(folder / "model.json")
        try:
            return cls((), tuple(content["item_ids"]), tuple(content["shares"]), int(content["buyers_needed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"model.json of {cls.name} lacks {error}; retrain or roll back.") from None


def recent_shares(data: Interactions, item_ids: tuple[str, ...], *, weeks: int, needed: int) -> np.ndarray:
    """Share of the people who bought anything in the last `weeks` of `data` that bought each item; 0 below `needed`."""
    newest: datetime = data.table["occurred_at"].to_pandas().max()
    recent = Purchases.of(data, since=newest - timedelta(weeks=weeks))
    buyers = recent.distinct_buyers()
    told = np.where(buyers >= needed, buyers / max(1, len(recent.user_keys)), 0.0)
    shares = dict(zip(recent.item_ids, told, strict=True))
    return np.array([shares.get(item, 0.0) for item in item_ids])
