"""Where history is cut: everything up to one moment teaches, everything after it judges. Never a random split.

A random split lets a model see the future of the people and items it is judged on; a cut in global time does not
(Meng et al. 2020, "Exploring Data Splitting Strategies for the Evaluation of Recommendation Models").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Split", "global_split", "past_cuts"]


@dataclass(frozen=True, slots=True)
class Split:
    """Learn from what was known at `cut`; judge on `(cut, until]`."""

    cut: datetime
    until: datetime


def global_split(as_of: datetime, *, horizon_days: int) -> Split:
    """The latest cut whose whole horizon has passed at `as_of`."""
    if horizon_days < 1:
        raise ValueError(f"horizon_days must be at least 1, not {horizon_days}.")
    return Split(as_of - timedelta(days=horizon_days), as_of)


def past_cuts(until: datetime, *, horizon_days: int, count: int, step_days: int) -> list[datetime]:
    """Up to `count` cuts, oldest first, whose labels were all known at `until`: the last is `until` - horizon."""
    last = until - timedelta(days=horizon_days)
    return [last - timedelta(days=step_days * i) for i in reversed(range(count))]
