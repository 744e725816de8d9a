"""Finding the labelled rows of any table: the platform's isolation forest beside the median-absolute-deviation rule.

Neither sees the labels. Both learn what is usual from all rows and are judged on the same rows, as is customary for
detectors without supervision (Han et al. 2022, ADBench).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from aap.modeling.algorithms.isolation_forest import Forest
from aap.modeling.algorithms.robust_scaling import Scaling
from aap.modeling.errors import OneClassOnly, TooFewRows, UnusableTable
from aap.modeling.evaluation.metrics import auc, average_precision, paired_bootstrap
from benchmarks.support.environment import describe_machine
from models.anomaly.evaluation import mad_rule

__all__ = ["Found", "run"]

_TREES, _ROWS_A_TREE = 200, 256
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class Found:
    """How well the marked rows are found. A gain is forest minus rule, with its 95 % interval, rows drawn anew."""

    rows: int
    marked: int
    features: tuple[str, ...]
    left_out: tuple[str, ...]
    """Columns that are not numbers."""
    forest: dict[str, float]
    mad_rule: dict[str, float]
    gain_auc: tuple[float, float, float]
    """Estimate, low, high."""
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def run(file: Path, *, label: str, seed: int = 0) -> Found:
    """Judge on the CSV or Parquet table `file`, whose column `label` is 1 (or true) for an anomaly, else 0.

    Raises `UnusableTable`, `TooFewRows`, `OneClassOnly`.
    """
    table = _table(file)
    marked = _marked(table, label)
    numbers = table.drop(columns=label).select_dtypes(include=["number", "bool"]).astype(np.float64)
    numbers = numbers.loc[:, numbers.notna().any()]
    if not len(numbers.columns):
        raise UnusableTable(f"{file} has no column of numbers but {label}; nothing to tell rows apart by.")
    values = numbers.replace([np.inf, -np.inf], np.nan).to_numpy()
    points = Scaling.fit(values).apply(values)
    ours = Forest.grow(points, trees=_TREES, rows_per_tree=_ROWS_A_TREE, seed=seed).score(points)
    theirs = mad_rule(values)(values)

    def gain(drawn: np.ndarray) -> float:
        return auc(marked[drawn], ours[drawn]) - auc(marked[drawn], theirs[drawn])

    interval = paired_bootstrap(gain, units=len(values), seed=seed, draws=200)
    return Found(
        rows=len(values),
        marked=int(marked.sum()),
        features=tuple(map(str, numbers.columns)),
        left_out=tuple(str(c) for c in table.columns if c != label and c not in numbers.columns),
        forest={"auc": auc(marked, ours), "ap": average_precision(marked, ours)},
        mad_rule={"auc": auc(marked, theirs), "ap": average_precision(marked, theirs)},
        gain_auc=(interval.estimate, interval.low, interval.high),
        machine=describe_machine(),
    )


def _table(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    except (OSError, ValueError, UnicodeError, pa.ArrowException) as error:
        raise UnusableTable(f"Can't read {file} as a table ({str(error).splitlines()[0]}).") from None


def _marked(table: pd.DataFrame, label: str) -> np.ndarray:
    if label not in table:
        raise UnusableTable(f"There is no column {label!r}; the table has: {', '.join(map(str, table.columns))}.")
    if len(table) < _FEWEST:
        raise TooFewRows("Rows to find anomalies among", found=len(table), needed=_FEWEST, advice="give a larger table")
    values = pd.to_numeric(table[label].map({True: 1, False: 0}).fillna(table[label]), errors="coerce")
    if not values.isin([0, 1]).all():
        raise UnusableTable(f"Column {label!r} must hold only 0 and 1, or true and false.")
    if values.nunique() < 2:
        raise OneClassOnly(label, value=values.iloc[0], rows=len(table))
    return values.to_numpy() == 1
