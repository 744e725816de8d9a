"""The blend: how habit, taste, popularity and category make one chance of buying, learned from past cuts by boosted trees.

Each past cut asks: of what could have been shown to a person then, what did they buy in the weeks after? Everything that
a row says was known at its cut; factors and facts are made anew for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb

from aap.modeling.algorithms import xgboost_inference as xgboost_trees
from aap.modeling.errors import SchemaMismatch
from models.recommendation.candidates import Candidates

__all__ = ["Blend", "BlendParameters", "Lesson"]


@dataclass(frozen=True, slots=True)
class BlendParameters:
    """How the trees are grown."""

    max_depth: int
    learning_rate: float
    trees: int
    min_child_weight: float
    subsample: float
    colsample_bytree: float
    reg_lambda: float

    def booster(self, seed: int) -> dict[str, Any]:
        """xgboost's own parameters. One thread: with several, histogram sums depend on their number."""
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": 1,
            "seed": seed,
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "reg_lambda": self.reg_lambda,
        }


@dataclass(frozen=True, slots=True)
class Lesson:
    """Candidates of one past cut and what became of them."""

    values: np.ndarray
    """float32 `[n, n_features]`."""
    bought: np.ndarray
    """bool `[n]`."""

    @classmethod
    def of(cls, shown: Candidates, *, rows: np.ndarray, bought: np.ndarray, items: int) -> Lesson:
        """`rows` (bool `[n]`) of the candidates; `bought`: the sorted keys person × `items` + item bought after the cut.

        Only people who bought something that could be asked for teach: of the others nothing can be learned of order.
        """
        kept = rows & np.isin(shown.person, bought // items)
        key = shown.person[kept] * items + shown.item[kept]
        place = np.minimum(np.searchsorted(bought, key), max(0, len(bought) - 1))
        return cls(shown.values[kept], bought[place] == key if len(bought) else np.zeros(len(key), dtype=bool))


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """A booster over `features`, and its answer."""

    features: tuple[str, ...]
    booster: xgb.Booster

    @classmethod
    def fit(
        cls, lessons: Sequence[Lesson], *, features: tuple[str, ...], parameters: BlendParameters, seed: int
    ) -> Blend:
        """Grow the trees on all lessons together."""
        matrix = xgb.QuantileDMatrix(_Parts(lessons, features), max_bin=64, nthread=1)
        return cls(features, xgb.train(parameters.booster(seed), matrix, num_boost_round=parameters.trees))

    def score(self, values: np.ndarray) -> np.ndarray:
        """The chance, 0 to 1, that each row's item is bought within the horizon; float64 `[n]`."""
        return xgboost_trees.predict(self.booster, values)

    def to_bytes(self) -> bytes:
        """xgboost's own ubj."""
        return bytes(self.booster.save_raw(raw_format="ubj"))

    @classmethod
    def from_bytes(cls, content: bytes, *, features: tuple[str, ...]) -> Blend:
        """Read `to_bytes` back; raises what xgboost raises, and `SchemaMismatch` for trees grown on other features."""
        booster = xgb.Booster({"nthread": 1})
        booster.load_model(bytearray(content))
        if features != tuple(booster.feature_names or ()):
            raise SchemaMismatch("recommendation", expected=booster.feature_names or (), given=features)
        return cls(features, booster)


class _Parts(xgb.DataIter):
    """Hands xgboost one lesson at a time, so that they are never copied together."""

    def __init__(self, lessons: Sequence[Lesson], features: tuple[str, ...]) -> None:
        self._lessons, self._features = lessons, list(features)
        self._rest: Iterator[Lesson] = iter(lessons)
        super().__init__()

    def next(self, input_data: Any) -> bool:
        lesson = next(self._rest, None)
        if lesson is None:
            return False
        input_data(data=lesson.values, label=lesson.bought.astype(np.float32), feature_names=self._features)
        return True

    def reset(self) -> None:
        self._rest = iter(self._lessons)
