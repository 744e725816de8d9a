"""Which new segment is which old one: so that a segment keeps its number and name from week to week."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from aap.modeling.algorithms.kmeans import Clusters

__all__ = ["matched", "numbered"]


def matched(new: Clusters, old: Clusters) -> list[int | None]:
    """For each new cluster the position of the old one it goes on with, or None for one that is new.

    Pairs have the least total distance between centroids (the assignment problem, Kuhn 1955), measured in the new
    clusters' scaled features. A pair counts only if the old clusters would have put the new centroid into that very
    cluster: else the old one is gone and the new one is another.
    """
    distances = cdist(new.centers, new.points(old.natural_centers))
    rows, columns = linear_sum_assignment(distances)
    there = old.groups(new.natural_centers)
    found: list[int | None] = [None] * len(new.centers)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if there[row] == column:
            found[row] = column
    return found


def numbered(pairs: Sequence[int | None], old: Sequence[int], *, unused: int) -> tuple[int, ...]:
    """The number of each new segment: that of the old one it goes on with, or the next one never used.

    `old`: numbers of the old segments by position; `unused`: the lowest number no version has used.
    """
    fresh = iter(range(unused, unused + len(pairs)))
    return tuple(next(fresh) if pair is None else old[pair] for pair in pairs)
