"""When two values of a feature agree: counts exactly, other numbers to 1e-9 relative, null with null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aap.features.declarations import Aggregate, Op

__all__ = ["differ"]

_EXACT = (Op.COUNT, Op.DISTINCT)
_TOLERANCE = 1e-9


def differ(features: Sequence[object], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which values differ, bool `[n, n_features]`, of two float64 arrays of that shape; NaN is null."""
    exact = np.array([isinstance(f, Aggregate) and f.op in _EXACT for f in features], dtype=bool)
    near = np.isclose(one, other, rtol=_TOLERANCE, atol=1e-12)
    return ~(np.where(exact, one == other, near) | (np.isnan(one) & np.isnan(other)))
