"""K-means on robustly scaled features: clusters of rows, how steady they are, and how many there should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.algorithms.single_threaded import one_thread
from aap.modeling.evaluation.metrics import adjusted_rand, silhouettes

__all__ = ["Clusters", "Recipe", "agreement", "drawn_anew", "how_many", "some_rows"]

_MOST_JUDGED = 4_000
"""Rows a silhouette is taken over; its cost is quadratic."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How k-means is run."""

    starts: int
    """k-means++ starts; the tightest result is kept."""
    clip: float
    """Scaled features are cut off at so many robust standard deviations."""
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Centres in a space of scaled and clipped features."""

    scaling: Scaling
    centers: np.ndarray
    """float64 `[n_clusters, n_features]`."""
    clip: float
    """As in `Recipe`."""

    @classmethod
    def fit(cls, values: np.ndarray, *, count: int, recipe: Recipe) -> Clusters:
        """Lloyd's k-means on float64 `[n, n_features]`, on one thread, so that one seed gives the same bytes."""
        scaling = Scaling.fit(values)
        points = np.clip(scaling.apply(values), -recipe.clip, recipe.clip)
        with one_thread():
            found = KMeans(n_clusters=count, n_init=recipe.starts, random_state=recipe.seed).fit(points)
        return cls(scaling, np.asarray(found.cluster_centers_), recipe.clip)

    def points(self, values: np.ndarray) -> np.ndarray:
        """Scaled and clipped features, float64 `[n, n_features]`; NaN counts as the median."""
        return np.clip(self.scaling.apply(values), -self.clip, self.clip)

    def nearest(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position of the nearest centre and the Euclidean distance to it; a row's answer does not depend on others."""
        points = self.points(values)
        squares = np.stack([((points - center) ** 2).sum(axis=1) for center in self.centers], axis=1)
        return squares.argmin(axis=1), np.sqrt(squares.min(axis=1))

    def groups(self, values: np.ndarray) -> np.ndarray:
        """Position of the nearest centre of each row, int64 `[n]`."""
        return self.nearest(values)[0]

    def in_order(self, order: Sequence[int] | np.ndarray) -> Clusters:
        """The same clusters in another order."""
        return Clusters(self.scaling, self.centers[np.asarray(order)], self.clip)

    @property
    def natural_centers(self) -> np.ndarray:
        """Centres in the features' own units, float64 `[n_clusters, n_features]`."""
        return self.scaling.undo(self.centers)


def how_many(values: np.ndarray, *, fewest: int, most: int, least_stability: float, draws: int, recipe: Recipe) -> int:
    """How many clusters: of the counts whose clusters come out again when rows are drawn anew, the best separated.

    A count from `fewest` to `most` qualifies when the mean adjusted Rand index over `draws` bootstrap samples is at least
    `least_stability`; among those the highest mean silhouette wins (Rousseeuw 1987), ties going to fewer. If none
    qualifies, the steadiest count is taken. Every cluster needs 20 rows on average. `values`: float64 `[n, n_features]`.
    """
    most = max(2, min(most, len(values) // 20))
    judged = some_rows(values, most=_MOST_JUDGED, seed=recipe.seed)
    samples = drawn_anew(values, draws, seed=recipe.seed)
    found: dict[int, tuple[float, float]] = {}
    for count in range(min(fewest, most), most + 1):
        clusters = Clusters.fit(values, count=count, recipe=recipe)
        groups = clusters.groups(judged)
        again = [Clusters.fit(rows, count=count, recipe=recipe).groups(judged) for rows in samples]
        found[count] = agreement(groups, again), float(np.mean(silhouettes(clusters.points(judged), groups)))
    steady = [count for count, (stability, _) in found.items() if stability >= least_stability]
    if not steady:
        return max(found, key=lambda count: (found[count][0], -count))
    return max(steady, key=lambda count: (found[count][1], -count))


def drawn_anew(values: np.ndarray, draws: int, *, seed: int) -> list[np.ndarray]:
    """`draws` bootstrap samples of the rows, each in the rows' own order. Efron 1979."""
    generator = np.random.default_rng(seed)
    return [values[np.sort(generator.integers(0, len(values), size=len(values)))] for _ in range(draws)]


def agreement(groups: np.ndarray, again: Sequence[np.ndarray]) -> float:
    """Mean adjusted Rand index of `groups` with each other grouping of the same rows; NaN with no other."""
    return float(np.mean([adjusted_rand(groups, other) for other in again])) if again else float("nan")


def some_rows(values: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """At most `most` of the rows, in order."""
    if len(values) <= most:
        return values
    return values[np.sort(np.random.default_rng(seed).choice(len(values), size=most, replace=False))]
