"""A snapshot: every person who may be used, once, with their features as they were at one moment."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from aap.features.datasets import TrainingFrame
from aap.modeling.base import Retrieval
from aap.modeling.errors import TooFewRows

__all__ = ["checked", "snapshot"]


def snapshot(retrieval: Retrieval, *, service: str, at: datetime, as_of: datetime) -> TrainingFrame:
    """One row a person of `service`, features at `at`, for use at `as_of`."""
    people = sorted(retrieval.people(service, as_of=as_of))
    if not people:
        raise TooFewRows(f"People who allow {service}", found=0, needed=1, advice="ask for consent first")
    labels = pd.DataFrame({"user_key": people, "as_of": pd.Timestamp(at)})
    return retrieval.training_frame(labels, service=service, as_of=as_of)


def checked(frame: TrainingFrame, *, what: str, fewest: int) -> np.ndarray:
    """Values of the rows about which anything is known; raises `TooFewRows`."""
    values = frame.values
    known = values[~np.isnan(values).all(axis=1)]
    if len(known) < fewest:
        raise TooFewRows(what, found=len(known), needed=fewest)
    return known
