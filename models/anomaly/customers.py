"""Anomaly: how unusual a customer's recent behaviour is, by an isolation forest, and which features make it so.

A score asks a person to look; it accuses nobody. The threshold is set so that a stated share of ordinary customers is
looked at in vain (the false-alarm budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms.isolation_forest import Forest
from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.base import Model, Retrieval
from aap.modeling.errors import CorruptArtifact
from aap.modeling.registry.artifacts import read_arrays, read_json, write_arrays, write_json
from aap.modeling.snapshot import checked, snapshot

__all__ = ["Anomaly", "AnomalyParameters"]

_FOREST = ("feature", "threshold", "left", "right", "path", "normal")
_SCALING = ("logged", "center", "scale")


@dataclass(frozen=True, slots=True)
class AnomalyParameters:
    """Section `anomaly` of training.yaml; what each means is said there."""

    horizon_days: int
    trees: int
    rows_per_tree: int
    false_alarm_budget: float
    min_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Anomaly(Model[TrainingFrame, AnomalyParameters]):
    """A forest over robust z-scores."""

    name: ClassVar[str] = "anomaly"
    service: ClassVar[str] = "anomaly"
    predicts: ClassVar[tuple[str, ...]] = ("anomaly_score", "drivers")
    parameters_type: ClassVar[type] = AnomalyParameters

    features: tuple[str, ...]
    scaling: Scaling
    forest: Forest
    threshold: float
    """Scores above this are worth a look."""

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: AnomalyParameters
    ) -> TrainingFrame:
        """Everyone once, as of `until`."""
        return snapshot(retrieval, service=cls.service, at=until, as_of=as_of)

    @classmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: AnomalyParameters
    ) -> TrainingFrame:
        """Everyone once, a horizon later."""
        return snapshot(retrieval, service=cls.service, at=until, as_of=as_of)

    @classmethod
    def fit(cls, data: TrainingFrame, *, parameters: AnomalyParameters, seed: int) -> Self:
        """Grow the forest on all rows and put the threshold at their 1 − budget quantile."""
        values = checked(data, what="People to learn what is usual from", fewest=parameters.min_rows)
        scaling = Scaling.fit(values)
        points = scaling.apply(values)
        forest = Forest.grow(points, trees=parameters.trees, rows_per_tree=parameters.rows_per_tree, seed=seed)
        threshold = float(np.quantile(forest.score(points), 1.0 - parameters.false_alarm_budget))
        return cls(data.features, scaling, forest, threshold)

    def score(self, values: np.ndarray) -> np.ndarray:
        """How unusual each row is, float64 `[n]`, 0 to 1, higher is more unusual; NaN counts as the median.

        `values` float64 `[n, n_features]` in the order of `features`. Raises `SchemaMismatch`.
        """
        return self.forest.score(self.scaling.apply(self.matrix(values)))

    def drivers(self, values: np.ndarray, *, most: int = 3) -> list[list[str]]:
        """The features furthest from usual in each row, by absolute robust z-score of at least 1, furthest first."""
        distances = np.abs(self.scaling.apply(self.matrix(values)))
        order = np.argsort(-distances, axis=1, kind="stable")[:, :most]
        return [[self.features[j] for j in row if distances[i, j] >= 1.0] for i, row in enumerate(order)]

    def save(self, folder: Path) -> None:
        """`model.json` and `forest.npz`."""
        write_json(folder / "model.json", {"features": self.features, "threshold": self.threshold})
        scaling = {name: getattr(self.scaling, name) for name in _SCALING}
        write_arrays(folder / "forest.npz", {**self.forest.to_arrays(), **scaling})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json` and `forest.npz`."""
        content = read_json(folder / "model.json")
        arrays = read_arrays(folder / "forest.npz", *_FOREST, *_SCALING)
        try:
            features, threshold = tuple(content["features"]), float(content["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"model.json of {cls.name} lacks {error}; retrain or roll back.") from None
        forest, scaling = Forest(*arrays[: len(_FOREST)]), Scaling(*arrays[len(_FOREST) :])
        if len(scaling.center) != len(features):
            raise CorruptArtifact(
                f"{cls.name} scales {len(scaling.center)} features of {len(features)}; retrain or roll back."
            )
        return cls(features, scaling, forest, threshold)
