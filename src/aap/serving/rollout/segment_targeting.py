"""Targeting: the segment of a person, for experiments that are for some segments only, where consent allows.

A segment is worked out under the purpose that segments are computed for, and used to choose what a person is shown, so
`personalize.profiled` must be granted as well. Without either, without data or without a model there is no segment. Whose
values are read is noted, as every read is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from aap.consent.policy import Decision
from aap.consent.purposes import Purpose
from aap.features.datasets import Status, Vectors
from aap.serving.errors import ServingError

__all__ = ["SegmentsOf"]


class _Features(Protocol):
    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors: ...
    def decisions(self, user_keys: Sequence[str], *, purpose: Purpose, now: datetime) -> Sequence[Decision]: ...


class _Models(Protocol):
    def get(self, name: str) -> Any: ...


class SegmentsOf:
    """Answers with the names that the segments model gives its segments.

    `note` is told of each read: its purpose, the user keys of whom it is about, and when.
    """

    def __init__(
        self, features: _Features, models: _Models, *, note: Callable[[Purpose, Sequence[str], datetime], None]
    ) -> None:
        self._features, self._models, self._note = features, models, note

    def __call__(self, user_keys: Sequence[str], now: datetime) -> list[str | None]:
        """One segment's name a person, or None. Raises what the stores raise when they are down."""
        found: list[str | None] = [None] * len(user_keys)
        try:
            used = self._models.get("segments")
            vectors = self._features.online_vectors(user_keys, service="segments", now=now)
            read = [i for i, decision in enumerate(vectors.decisions) if decision.allowed]
            if read:
                self._note(vectors.decisions[read[0]].purpose, [user_keys[i] for i in read], now)
            used.require(vectors.features)
        except ServingError:
            return found
        may_choose = self._features.decisions(user_keys, purpose=Purpose.PERSONALIZE_PROFILED, now=now)
        lacking = np.isin(vectors.status, (Status.NOT_FOUND, Status.EXPIRED, Status.DENIED)).sum(axis=1)
        known = [i for i in read if may_choose[i].allowed and not lacking[i]]
        if known:
            for i, answer in zip(known, used.model.assign(vectors.values[known]), strict=True):
                found[i] = answer.name
        return found
