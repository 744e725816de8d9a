"""Segments: groups of customers who shop alike, by k-means on robustly scaled features, each with a readable name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from feature_repo.frame import TrainingFrame
from models.artifact import read_arrays, read_json, write_arrays, write_json
from models.clustering import cluster, nearest
from models.contract import Model, Retrieval
from models.errors import CorruptArtifact
from models.evaluation import Evaluation
from models.scaling import Scaling
from models.segment_names import names_of
from models.snapshot import checked, snapshot

__all__ = ["SegmentAnswer", "Segments", "SegmentsParameters"]


@dataclass(frozen=True, slots=True)
class SegmentsParameters:
    """Section `segments` of training.yaml; what each means is said there."""

    horizon_days: int
    clusters: int
    starts: int
    clip: float
    min_rows: int
    stability_draws: int


@dataclass(frozen=True, slots=True)
class SegmentAnswer:
    """The segment of one person."""

    segment: int
    """0 is the segment that spends most."""
    name: str
    distance: float
    """Euclidean distance to the segment's centre in scaled features, 0 or more; smaller is more typical."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments(Model[TrainingFrame, SegmentsParameters]):
    """Centres in scaled feature space."""

    name: ClassVar[str] = "segments"
    service: ClassVar[str] = "segments"
    predicts: ClassVar[tuple[str, ...]] = ("segment", "segment_name", "distance")
    parameters_type: ClassVar[type] = SegmentsParameters

    features: tuple[str, ...]
    scaling: Scaling
    centers: np.ndarray
    """float64 `[n_segments, n_features]`."""
    names: tuple[str, ...]
    profiles: np.ndarray
    """float64 `[n_segments, n_features]`: median of each feature among the segment's people, in its own unit."""
    shares: tuple[float, ...]
    """Share of people in each segment when it was fitted; they add up to 1."""
    clip: float

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: SegmentsParameters
    ) -> TrainingFrame:
        """Everyone once, as of `until`."""
        return snapshot(retrieval, service=cls.service, at=until, as_of=as_of)

    @classmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: SegmentsParameters
    ) -> TrainingFrame:
        """Everyone once, a horizon later."""
        return snapshot(retrieval, service=cls.service, at=until, as_of=as_of)

    @classmethod
    def fit(cls, data: TrainingFrame, *, parameters: SegmentsParameters, seed: int) -> Self:
        """k-means from several starts; segments are numbered by what their people spend, so numbers mean something.

        With fewer than 20 people a segment, fewer segments are made.
        """
        values = checked(data, what="People to form segments from", fewest=parameters.min_rows)
        scaling = Scaling.fit(values)
        points = np.clip(scaling.apply(values), -parameters.clip, parameters.clip)
        count = max(2, min(parameters.clusters, len(points) // 20))
        centers = cluster(points, count=count, starts=parameters.starts, seed=seed)
        groups = nearest(points, centers)[0]
        order = np.argsort([-_spend(data.features, values[groups == g]) for g in range(count)], kind="stable")
        centers = centers[order]
        groups = nearest(points, centers)[0]
        profiles = np.array([_medians(values[groups == g]) for g in range(count)])
        names = names_of(
            np.array([np.median(points[groups == g], axis=0) for g in range(count)]), features=data.features
        )
        shares = tuple(float(np.mean(groups == g)) for g in range(count))
        return cls(data.features, scaling, centers, names, profiles, shares, parameters.clip)

    def points(self, values: np.ndarray) -> np.ndarray:
        """Scaled and clipped features, float64 `[n, n_features]`."""
        return np.clip(self.scaling.apply(self.matrix(values)), -self.clip, self.clip)

    def groups(self, values: np.ndarray) -> np.ndarray:
        """Segment number of each row, int64 `[n]`."""
        return nearest(self.points(values), self.centers)[0]

    def assign(self, values: np.ndarray) -> list[SegmentAnswer]:
        """Segment of each row of `values` float64 `[n, n_features]`; NaN counts as the median.

        Raises `SchemaMismatch`.
        """
        groups, distances = nearest(self.points(values), self.centers)
        answers = zip(groups.tolist(), distances.tolist(), strict=True)
        return [SegmentAnswer(group, self.names[group], distance) for group, distance in answers]

    def evaluate(
        self, held_out: TrainingFrame, *, train: TrainingFrame, parameters: SegmentsParameters, seed: int
    ) -> Evaluation:
        """Silhouette on later data and stability under resampling, beside fixed RFM quantiles."""
        from models.segments_trial import evaluate

        self.require(held_out.features)
        return evaluate(self, held_out=held_out, train=train, parameters=parameters, seed=seed)

    def save(self, folder: Path) -> None:
        """`model.json` and `segments.npz`."""
        content = {"features": self.features, "names": self.names, "shares": self.shares, "clip": self.clip}
        write_json(folder / "model.json", content)
        scaling = {"logged": self.scaling.logged, "center": self.scaling.center, "scale": self.scaling.scale}
        write_arrays(folder / "segments.npz", {"centers": self.centers, "profiles": self.profiles, **scaling})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json` and `segments.npz`."""
        content = read_json(folder / "model.json")
        wanted = ("centers", "profiles", "logged", "center", "scale")
        centers, profiles, logged, center, scale = read_arrays(folder / "segments.npz", *wanted)
        try:
            features, names, shares = (tuple(content[key]) for key in ("features", "names", "shares"))
            if centers.shape != (len(names), len(features)):
                raise CorruptArtifact(
                    f"{cls.name} has {len(names)} names for centres {centers.shape}; retrain or roll back."
                )
            clip = float(content["clip"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"model.json of {cls.name} lacks {error}; retrain or roll back.") from None
        return cls(features, Scaling(logged, center, scale), centers, names, profiles, shares, clip)


def _spend(features: tuple[str, ...], values: np.ndarray) -> float:
    amounts = [i for i, name in enumerate(features) if name.startswith("amount_sum")] or [0]
    return float(np.nan_to_num(np.nanmean(values[:, amounts[0]]))) if len(values) else 0.0


def _medians(values: np.ndarray) -> np.ndarray:
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([float(np.median(column)) if len(column) else 0.0 for column in known])
