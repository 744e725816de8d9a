"""Leaks: what a model must not have been shown. A figure made with knowledge of the future is a defect, not a success.

Three checks, each of which names what leaks: lines and rows from after the cut; a column whose values change when
everything after the cut is hidden; and a single feature that tells the label too well to be true.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from aap.features.datasets import Interactions, TrainingFrame
from aap.modeling.errors import Leak, SchemaMismatch
from aap.modeling.evaluation.metrics import auc

__all__ = ["changed_columns", "require_known", "too_telling"]

_TOO_TELLING = 0.99
"""AUC of one feature alone. The best models of what shoppers do next reach 0.9; one count that reaches 0.99 has seen it."""
_FEWEST = 100


def require_known(
    data: TrainingFrame | Interactions, *, cut: datetime, horizon_days: int, label: str | None = None
) -> None:
    """Raise `Leak`, naming it, if `data` to learn from holds anything that could not be known at `cut`.

    Rows with a `label` must lie a horizon before it: the label itself is known only then.
    """
    if isinstance(data, Interactions):
        moments = data.table["occurred_at"].to_pandas()
        late = int((moments > cut).sum())
        if late:
            raise Leak(f"{late} purchase lines are later than the cut {cut:%Y-%m-%d %H:%M}; learn from earlier ones.")
        return
    last = cut - timedelta(days=horizon_days) if label in data.data else cut
    late = int((data.data["as_of"] > last).sum())
    if late:
        what = f"labels of {horizon_days} days" if label in data.data else "features"
        raise Leak(f"{late} rows have {what} that were not known at the cut {cut:%Y-%m-%d %H:%M}; use earlier ones.")
    if label in data.data and (told := too_telling(data, label=str(label))):
        raise Leak(
            f"{', '.join(told)} alone {'tells' if len(told) == 1 else 'tell'} {label} almost without fail: "
            "look at how it is made, it has probably seen what came after."
        )


def too_telling(frame: TrainingFrame, *, label: str) -> tuple[str, ...]:
    """Features that alone order the rows by a yes-or-no `label` nearly perfectly, either way round; NaN is lowest.

    Nothing is said with fewer than a hundred rows of either class.
    """
    happened = frame.data[label].to_numpy() == 1.0
    if min(int(happened.sum()), int((~happened).sum())) < _FEWEST:
        return ()
    found = []
    for name in frame.features:
        column = frame.data[name].to_numpy(dtype=np.float64)
        area = auc(happened, np.where(np.isnan(column), -np.inf, column))
        if max(area, 1 - area) >= _TOO_TELLING:
            found.append(name)
    return tuple(found)


def changed_columns(seen: TrainingFrame, blind: TrainingFrame) -> tuple[str, ...]:
    """Features whose values differ between a frame and the same frame made with everything after the cut hidden.

    Each of them was made with knowledge of the future. Raises `SchemaMismatch` for frames of different rows or columns.
    """
    if seen.features != blind.features or len(seen.data) != len(blind.data):
        raise SchemaMismatch("leak check", expected=seen.features, given=blind.features)
    return tuple(
        name
        for name in seen.features
        if not np.array_equal(seen.data[name].to_numpy(), blind.data[name].to_numpy(), equal_nan=True)
    )
