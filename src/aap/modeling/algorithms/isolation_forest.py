"""An isolation forest as plain arrays: grown by scikit-learn, stored without pickle, answered by numpy.

Liu, Ting & Zhou 2008. All trees of all rows are walked at once, a few array steps a level, so one row takes a
fraction of a millisecond where scikit-learn's own scoring takes several.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest

from aap.modeling.algorithms.single_threaded import one_thread

__all__ = ["Forest"]

_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Every array but the last is `[n_trees, most_nodes]`; node 0 is the root and a leaf is its own child."""

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    path: np.ndarray
    """Depth of the node plus what the rows that were left there would have added, float64."""
    normal: np.ndarray
    """float64 `[1]`: mean path length in a tree of as many rows as each was grown on."""

    @classmethod
    def grow(cls, values: np.ndarray, *, trees: int, rows_per_tree: int, seed: int) -> Forest:
        """Grow on float64 `[n, n_features]` without NaN, on one thread."""
        size = min(rows_per_tree, len(values))
        with one_thread():
            grown = IsolationForest(n_estimators=trees, max_samples=size, random_state=seed, n_jobs=1).fit(values)
        parts = [_arrays(tree.tree_) for tree in grown.estimators_]
        most = max(len(part["feature"]) for part in parts)
        stacked = {name: np.stack([np.resize(part[name], most) for part in parts]) for name in parts[0]}
        return cls(**stacked, normal=_unfinished(np.array([size])))

    def score(self, values: np.ndarray) -> np.ndarray:
        """2^(−mean path / normal path), float64 `[n]`, 0 to 1; higher is easier to isolate, about 0.5 is ordinary."""
        parts = [self._mean_path(values[i : i + _ROWS_AT_ONCE]) for i in range(0, len(values), _ROWS_AT_ONCE)]
        paths = np.concatenate(parts) if parts else np.empty(0)
        return np.asarray(2.0 ** (-paths / self.normal[0]))

    def _mean_path(self, values: np.ndarray) -> np.ndarray:
        seen = values.astype(np.float32)
        trees = np.arange(len(self.feature))[None, :]
        rows = np.arange(len(seen))[:, None]
        node = np.zeros((len(seen), len(self.feature)), dtype=np.int64)
        while True:
            goes_left = seen[rows, self.feature[trees, node]] <= self.threshold[trees, node]
            below = np.where(goes_left, self.left[trees, node], self.right[trees, node])
            if np.array_equal(below, node):
                return np.asarray(self.path[trees, node].mean(axis=1))
            node = below

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By field name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    own = np.arange(tree.node_count, dtype=np.int32)
    leaf = tree.children_left == -1
    depth = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # children come after their parent
        if not leaf[node]:
            depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
    return {
        "feature": np.where(leaf, 0, tree.feature).astype(np.int32),
        "threshold": np.where(leaf, 0.0, tree.threshold),
        "left": np.where(leaf, own, tree.children_left).astype(np.int32),
        "right": np.where(leaf, own, tree.children_right).astype(np.int32),
        "path": np.where(leaf, depth + _unfinished(tree.n_node_samples), 0.0),
    }


def _unfinished(rows: np.ndarray) -> np.ndarray:
    """Mean path length of an unsuccessful search in a binary search tree of `rows` (Liu et al. 2008, equation 1)."""
    count = np.asarray(rows, dtype=np.float64)
    harmonic = np.log(np.maximum(count - 1, 1)) + np.euler_gamma
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, 2 * harmonic - 2 * (count - 1) / np.maximum(count, 1)))
