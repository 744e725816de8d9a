"""The Global Privacy Control on a call: while `Sec-GPC: 1` is sent, what it stops is denied to everybody in the call.

https://w3c.github.io/gpc/: the only value is `1`; anything else means nothing. A door that stands behind an
application sees the application's header, which passes on what the person's browser said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from consent.policy import Decision, Reason
from consent.purposes import Purpose, spec
from feature_repo.frame import Status, Vectors
from feature_repo.views import service as service_called
from serving.errors import UnusableFields
from serving.predictor import Features, Predictor

__all__ = ["is_sent", "refuse_grant", "under_gpc"]


def is_sent(headers: Mapping[str, str]) -> bool:
    """Whether the call carries the signal."""
    return headers.get("sec-gpc", "").strip() == "1"


def refuse_grant(purpose: Purpose, *, sent: bool) -> None:
    """Raise `UnusableFields` for a grant that the call's own signal speaks against."""
    if sent and spec(purpose).stopped_by_gpc:
        raise UnusableFields(f"{purpose} can't be granted by a call with Sec-GPC: 1: the signal says no to it.")


def under_gpc(predictor: Predictor) -> Predictor:
    """`predictor` as it answers a call that carries the signal."""
    return replace(predictor, features=_Stopped(predictor.features))


@dataclass(frozen=True, slots=True)
class _Stopped:
    """Features of which those for a stopped purpose aren't even read."""

    features: Features

    def online_vectors(self, user_keys: Sequence[str], *, service: str, now: datetime) -> Vectors:
        """All DENIED, for `global_privacy_control`, where the service answers under a stopped purpose."""
        asked = service_called(service)
        stopped = [p for p in asked.answering_purposes if spec(p).stopped_by_gpc]
        if not stopped:
            return self.features.online_vectors(user_keys, service=service, now=now)
        shape = (len(user_keys), len(asked.features))
        return Vectors(
            asked.features,
            np.full(shape, np.nan),
            np.full(shape, Status.DENIED, dtype=np.uint8),
            [Decision(False, stopped[0], Reason.GPC, -1) for _ in user_keys],
            {name: [[] for _ in user_keys] for name in asked.sequences},
        )
