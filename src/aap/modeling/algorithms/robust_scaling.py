"""Robust scaling: features brought to one scale by medians and quartiles, so that a few huge values don't set it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MEDIAN_ABSOLUTE_DEVIATION_TO_SIGMA", "QUARTILES_TO_SIGMA", "Scaling"]

QUARTILES_TO_SIGMA = 1.349
"""Interquartile range of a normal distribution in standard deviations."""
MEDIAN_ABSOLUTE_DEVIATION_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in median absolute deviations."""
_SKEWED = 1.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """z = (g(x) − median) / scale, one a feature, where g is log1p for features that are skewed and never negative."""

    logged: np.ndarray
    """bool `[n_features]`."""
    center: np.ndarray
    """float64 `[n_features]`, after g."""
    scale: np.ndarray
    """float64 `[n_features]`, positive, after g, in standard deviations of a normal distribution."""

    @classmethod
    def fit(cls, values: np.ndarray) -> Scaling:
        """From float64 `[n, n_features]`; NaN is passed over. A constant feature gets scale 1 and never counts."""
        logged = np.array([_skewed(column) for column in values.T], dtype=bool)
        eased = np.where(logged, np.log1p(np.where(logged, values, 0.0)), values)
        center = np.array([np.median(c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0.0 for c in eased.T])
        scale = np.array([_spread(column) for column in eased.T])
        return cls(logged, center, scale)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Robust z-scores, float64 `[n, n_features]`; a missing value counts as the median (0)."""
        positive = np.where(self.logged, np.maximum(values, 0.0), 0.0)
        eased = np.where(self.logged, np.log1p(positive), values)
        return np.nan_to_num((eased - self.center) / self.scale, nan=0.0, posinf=0.0, neginf=0.0)

    def undo(self, points: np.ndarray) -> np.ndarray:
        """The values that robust z-scores stand for, in the features' own units, float64 `[n, n_features]`."""
        eased = points * self.scale + self.center
        return np.where(self.logged, np.expm1(np.where(self.logged, eased, 0.0)), eased)


def _skewed(column: np.ndarray) -> bool:
    known = column[~np.isnan(column)]
    spread = known.std() if len(known) else 0.0
    if not spread or known.min() < 0:
        return False
    return bool(np.mean(((known - known.mean()) / spread) ** 3) > _SKEWED)


def _spread(column: np.ndarray) -> float:
    known = column[~np.isnan(column)]
    if not len(known):
        return 1.0
    low, high = np.quantile(known, [0.25, 0.75])
    return float((high - low) / QUARTILES_TO_SIGMA or known.std() or 1.0)
