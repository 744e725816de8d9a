"""Rows for boosting that don't fit into memory at once: xgboost reads them in parts from a cache on disk.

The quantiles of a feature are then sketched part by part, so a model grown this way is not byte for byte the one grown in
memory; two grown this way are.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

__all__ = ["matrix"]


def matrix(
    values: np.ndarray,
    labels: np.ndarray,
    *,
    max_bin: int,
    rows_in_memory: int,
    names: Sequence[str] | None = None,
    ref: xgb.DMatrix | None = None,
) -> xgb.DMatrix:
    """`values` float `[n, n_features]` and `labels` `[n]` as xgboost reads them.

    Up to `rows_in_memory` rows are kept in memory; more are cached on disk in parts of that many, and the cache goes when
    the matrix does. `values` may be a memory map.
    """
    called = None if names is None else list(names)
    if len(values) <= rows_in_memory:
        return xgb.QuantileDMatrix(values, label=labels, feature_names=called, nthread=1, max_bin=max_bin, ref=ref)
    folder = tempfile.mkdtemp(prefix="aap-boost-")
    parts = _Parts(values, labels, called, rows=rows_in_memory, cache=Path(folder) / "cache")
    made = xgb.ExtMemQuantileDMatrix(parts, nthread=1, max_bin=max_bin, ref=ref)
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


class _Parts(xgb.DataIter):
    """One part after the other, in order."""

    def __init__(
        self, values: np.ndarray, labels: np.ndarray, names: list[str] | None, *, rows: int, cache: Path
    ) -> None:
        self._values, self._labels, self._names, self._rows, self._next = values, labels, names, rows, 0
        super().__init__(cache_prefix=str(cache), release_data=True)

    def next(self, input_data: Callable[..., Any]) -> bool:
        start = self._next
        if start >= len(self._values):
            return False
        self._next = start + self._rows
        part = np.ascontiguousarray(self._values[start : self._next])
        input_data(data=part, label=self._labels[start : self._next], feature_names=self._names)
        return True

    def reset(self) -> None:
        self._next = 0
