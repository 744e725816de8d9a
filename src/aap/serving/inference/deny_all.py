"""Features that aren't even read: everybody is denied, for one reason, under the services that `why` has one for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from aap.consent.policy import Decision
from aap.features.datasets import Status, Vectors
from aap.features.declarations import Service
from aap.features.views import service as service_called
from aap.serving.inference.predictor import Features

__all__ = ["Denying"]


@dataclass(frozen=True, slots=True)
class Denying:
    """The features behind it, but where `why` gives a decision: then that is everybody's, and nothing is read."""

    features: Features
    why: Callable[[Service], Decision | None]

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors:
        """All DENIED where there is a reason; else what the features behind it say."""
        asked = service_called(service)
        decision = self.why(asked)
        if decision is None:
            return self.features.online_vectors(user_keys, service=service, now=now)
        shape = (len(user_keys), len(asked.features))
        return Vectors(
            asked.features,
            np.full(shape, np.nan),
            np.full(shape, Status.DENIED, dtype=np.uint8),
            [decision] * len(user_keys),
            {name: [[] for _ in user_keys] for name in asked.sequences},
        )
