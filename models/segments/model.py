"""Segments: groups of customers who shop alike, by k-means on robustly scaled features, each with a readable name.

Numbers and names go on from version to version (docs/adr/0021-segments-keep-their-names.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from aap.features.datasets import TrainingFrame
from aap.modeling.algorithms.kmeans import Clusters, Recipe, how_many
from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.base import Model, Retrieval
from aap.modeling.errors import CorruptArtifact
from aap.modeling.registry.artifacts import read_arrays, read_json, write_arrays, write_json
from aap.modeling.snapshot import checked, snapshot
from models.segments.matching import matched, numbered
from models.segments.naming import names_of

__all__ = ["SegmentAnswer", "Segments", "SegmentsParameters"]


@dataclass(frozen=True, slots=True)
class SegmentsParameters:
    """Section `segments` of training.yaml; what each means is said there."""

    horizon_days: int
    fewest_clusters: int
    most_clusters: int
    least_stability: float
    starts: int
    clip: float
    min_rows: int
    stability_draws: int


@dataclass(frozen=True, slots=True)
class SegmentAnswer:
    """The segment of one person."""

    segment: int
    """The segment's number, which it keeps while it lasts."""
    name: str
    distance: float
    """Euclidean distance to the segment's centre in scaled features, 0 or more; smaller is more typical."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments(Model[TrainingFrame, SegmentsParameters]):
    """Clusters, and what is said of each. All but `features` and `unused` is by position, biggest spenders first."""

    name: ClassVar[str] = "segments"
    service: ClassVar[str] = "segments"
    predicts: ClassVar[tuple[str, ...]] = ("segment", "segment_name", "distance")
    parameters_type: ClassVar[type] = SegmentsParameters

    features: tuple[str, ...]
    clusters: Clusters
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    profiles: np.ndarray
    """float64 `[n_segments, n_features]`: median of each feature among the segment's people, in its own unit."""
    usual: np.ndarray
    """float64 `[n_features]`: median of each feature among everyone."""
    sizes: tuple[int, ...]
    """People in each segment when it was fitted."""
    unused: int
    """The lowest number that no segment has had."""

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
        """As many clusters as `aap.modeling.algorithms.kmeans.how_many` says; numbered from 0 by what their people spend."""
        values = checked(data, what="People to form segments from", fewest=parameters.min_rows)
        recipe = Recipe(parameters.starts, parameters.clip, seed)
        count = how_many(
            values,
            fewest=parameters.fewest_clusters,
            most=parameters.most_clusters,
            least_stability=parameters.least_stability,
            draws=parameters.stability_draws,
            recipe=recipe,
        )
        found = Clusters.fit(values, count=count, recipe=recipe)
        groups = found.groups(values)
        clusters = found.in_order(np.argsort([-_spend(data.features, values[groups == g]) for g in range(count)]))
        groups = clusters.groups(values)
        shifts = np.array([np.median(clusters.points(values[groups == g]), axis=0) for g in range(count)])
        return cls(
            features=data.features,
            clusters=clusters,
            numbers=tuple(range(count)),
            names=names_of(shifts, features=data.features),
            profiles=np.array([_medians(values[groups == g]) for g in range(count)]),
            usual=_medians(values),
            sizes=tuple(np.bincount(groups, minlength=count).tolist()),
            unused=count,
        )

    def following(self, previous: Self) -> Self:
        """With the numbers and names of the segments of `previous` that are still there.

        Nothing changes where `previous` reads other features.
        """
        if previous.features != self.features:
            return self
        pairs = matched(self.clusters, previous.clusters)
        kept = {place: previous.names[pair] for place, pair in enumerate(pairs) if pair is not None}
        names = list(self.names)
        for place, name in enumerate(self.names):
            names[place] = kept.get(place) or _apart(name, taken=set(kept.values()))
        numbers = numbered(pairs, previous.numbers, unused=previous.unused)
        unused = max(previous.unused, max(numbers) + 1)
        return replace(self, names=tuple(names), numbers=numbers, unused=unused)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of people in each segment when it was fitted; they add up to 1."""
        return tuple(size / sum(self.sizes) for size in self.sizes)

    @property
    def described(self) -> tuple[str, ...]:
        """A sentence a segment: its number, name and size, and where it differs most from everyone."""
        told = []
        for place, name in enumerate(self.names):
            furthest = np.argsort(-np.abs(self.clusters.centers[place]), kind="stable")[:4].tolist()
            medians = ", ".join(
                f"{self.features[j]} {self.profiles[place, j]:,.4g} (everyone {self.usual[j]:,.4g})" for j in furthest
            )
            size = f"{self.sizes[place]:,} people, {self.shares[place]:.0%}"
            told.append(f"Segment {self.numbers[place]}, {name}: {size}; median {medians}.")
        return tuple(told)

    def groups(self, values: np.ndarray) -> np.ndarray:
        """Position of the segment of each row, int64 `[n]`."""
        return self.clusters.groups(self.matrix(values))

    def assign(self, values: np.ndarray) -> list[SegmentAnswer]:
        """Segment of each row of `values` float64 `[n, n_features]`; NaN counts as the median.

        Raises `SchemaMismatch`.
        """
        places, distances = self.clusters.nearest(self.matrix(values))
        answers = zip(places.tolist(), distances.tolist(), strict=True)
        return [SegmentAnswer(self.numbers[place], self.names[place], distance) for place, distance in answers]

    def save(self, folder: Path) -> None:
        """`model.json` and `segments.npz` follow from the data alone; `names.json` also from the version before."""
        scaling = self.clusters.scaling
        write_json(folder / "model.json", {"features": self.features, "sizes": self.sizes, "clip": self.clusters.clip})
        write_json(folder / "names.json", {"names": self.names, "numbers": self.numbers, "unused": self.unused})
        arrays = {"logged": scaling.logged, "center": scaling.center, "scale": scaling.scale, "usual": self.usual}
        write_arrays(folder / "segments.npz", {"centers": self.clusters.centers, "profiles": self.profiles, **arrays})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        content, told = read_json(folder / "model.json"), read_json(folder / "names.json")
        wanted = ("centers", "profiles", "usual", "logged", "center", "scale")
        centers, profiles, usual, logged, center, scale = read_arrays(folder / "segments.npz", *wanted)
        try:
            features, sizes, names, numbers = (
                tuple(found[key])
                for found, key in ((content, "features"), (content, "sizes"), (told, "names"), (told, "numbers"))
            )
            if centers.shape != (len(names), len(features)) or not len(names) == len(numbers) == len(sizes):
                raise CorruptArtifact(
                    f"{cls.name} has {len(names)} names for centres {centers.shape}; retrain or roll back."
                )
            clusters = Clusters(Scaling(logged, center, scale), centers, float(content["clip"]))
            return cls(features, clusters, numbers, names, profiles, usual, sizes, int(told["unused"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(f"The files of {cls.name} lack {error}; retrain or roll back.") from None


def _spend(features: tuple[str, ...], values: np.ndarray) -> float:
    amounts = [i for i, name in enumerate(features) if name.startswith("amount_sum")] or [0]
    return float(np.nan_to_num(np.nanmean(values[:, amounts[0]]))) if len(values) else 0.0


def _medians(values: np.ndarray) -> np.ndarray:
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([float(np.median(column)) if len(column) else 0.0 for column in known])


def _apart(name: str, *, taken: set[str]) -> str:
    """`name`, or "name (2)" and so on when it is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found
