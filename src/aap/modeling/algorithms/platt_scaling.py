"""Platt scaling: two numbers that turn a model's log odds into calibrated ones."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["platt"]

_LEAST_SLOPE, _MOST_SLOPE = 0.5, 2.0
"""A slope outside says that there were too few rows to fit one."""


def platt(margin: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept that minimise the log loss of σ(slope · margin + intercept), float64 `[n]` each.

    With Platt's own smoothed targets, so that few rows can't make it sure (Platt 1999, section 2.1). (1, 0) where one
    class is missing or the best slope lies outside 0.5 to 2.
    """
    positive = float(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return 1.0, 0.0
    target = np.where(labels == 1.0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        odds = at[0] * margin + at[1]
        miss = expit(odds) - target
        value = float(np.mean(np.logaddexp(0.0, odds) - target * odds))
        return value, np.array([np.mean(miss * margin), np.mean(miss)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B")
    slope, intercept = (float(value) for value in found.x)
    return (slope, intercept) if _LEAST_SLOPE <= slope <= _MOST_SLOPE else (1.0, 0.0)
