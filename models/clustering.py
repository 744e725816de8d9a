"""K-means: centres from points, and the nearest centre of a point."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans

from models.one_thread import one_thread

__all__ = ["cluster", "nearest"]


def cluster(points: np.ndarray, *, count: int, starts: int, seed: int) -> np.ndarray:
    """Centres of k-means (Lloyd from k-means++ starts), on one thread so that one seed gives the same bytes."""
    with one_thread():
        return np.asarray(KMeans(n_clusters=count, n_init=starts, random_state=seed).fit(points).cluster_centers_)


def nearest(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest centre and the distance to it; a row's answer does not depend on the other rows."""
    squares = np.stack([((points - center) ** 2).sum(axis=1) for center in centers], axis=1)
    return squares.argmin(axis=1), np.sqrt(squares.min(axis=1))
