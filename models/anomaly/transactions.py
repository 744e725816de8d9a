"""Anomalies in what just happened: how unusual one purchase line is, and one session, whoever did it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from aap.features.datasets import TrainingFrame
from aap.modeling.base import Retrieval
from models.anomaly.customers import Anomaly, AnomalyParameters
from models.anomaly.transaction_features import frame_of

__all__ = ["EventAnomaly", "SessionAnomaly"]

_MOST_ROWS = 20_000
"""Rows learned from and judged on: a tree reads a few hundred, and a threshold at 1 % needs some thousands."""


class _DoingAnomaly(Anomaly):
    """Learns from the horizon before a cut, and is judged on the one after."""

    __slots__ = ()

    sessions: ClassVar[bool]

    @classmethod
    def examples(
        cls, retrieval: Retrieval, *, until: datetime, as_of: datetime, parameters: AnomalyParameters
    ) -> TrainingFrame:
        """What was done in the `horizon_days` before `until`."""
        since = until - timedelta(days=parameters.horizon_days)
        return cls.held_out(retrieval, cut=since, until=until, as_of=as_of, parameters=parameters)

    @classmethod
    def held_out(
        cls, retrieval: Retrieval, *, cut: datetime, until: datetime, as_of: datetime, parameters: AnomalyParameters
    ) -> TrainingFrame:
        """What was done in `(cut, until]`."""
        found = retrieval.interactions(cls.service, as_of=as_of, since=cut, until=until)
        return frame_of(found, sessions=cls.sessions, most=_MOST_ROWS)


class EventAnomaly(_DoingAnomaly):
    """One purchase line: `models.anomaly.transaction_features.LINE_FEATURES`."""

    __slots__ = ()

    name: ClassVar[str] = "event_anomaly"
    sessions: ClassVar[bool] = False


class SessionAnomaly(_DoingAnomaly):
    """One session, the lines of one basket: `models.anomaly.transaction_features.SESSION_FEATURES`."""

    __slots__ = ()

    name: ClassVar[str] = "session_anomaly"
    sessions: ClassVar[bool] = True
