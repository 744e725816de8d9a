"""The Global Privacy Control on a call: while `Sec-GPC: 1` is sent, what it stops is denied to everybody in the call.

https://w3c.github.io/gpc/: the only value is `1`; anything else means nothing. A door that stands behind an
application sees the application's header, which passes on what the person's browser said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aap.consent.policy import Decision, Reason
from aap.consent.purposes import Purpose, spec
from aap.features.declarations import Service
from aap.serving.errors import UnusableFields
from aap.serving.inference.deny_all import Denying
from aap.serving.inference.predictor import Predictor

__all__ = ["is_sent", "refuse_grant", "under_gpc"]


def is_sent(headers: Mapping[str, str]) -> bool:
    """Whether the call carries the signal."""
    return headers.get("sec-gpc", "").strip() == "1"


def refuse_grant(purpose: Purpose, *, sent: bool) -> None:
    """Raise `UnusableFields` for a grant that the call's own signal speaks against."""
    if sent and spec(purpose).stopped_by_gpc:
        raise UnusableFields(f"{purpose} can't be granted by a call with Sec-GPC: 1: the signal says no to it.")


def under_gpc(predictor: Predictor) -> Predictor:
    """`predictor` as it answers a call that carries the signal: features for a stopped purpose aren't even read."""
    return replace(predictor, features=Denying(predictor.features, _stopped))


def _stopped(asked: Service) -> Decision | None:
    stopped = [p for p in asked.answering_purposes if spec(p).stopped_by_gpc]
    return Decision(False, stopped[0], Reason.GPC, -1) if stopped else None
