"""/v1/churn: how likely each person is to stop buying."""

from __future__ import annotations

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, Prediction, example_answer
from aap_client.requests import ScoreRequest
from aap_client.responses import Answer, ChurnResult

__all__ = ["CHURN", "CHURN_ANSWER"]

_WHY = ("visits fell from 9 to 4 in four weeks", "last visit 11 days ago, usually every 3")
CHURN_ANSWER = example_answer("churn", Purpose.MARKETING_RETENTION, ChurnResult(0.187, 28, _WHY))
"""One person's answer as the document shows it, here and in a mixed call."""

CHURN = Endpoint(
    name="churn",
    scope=Scope.PREDICT,
    takes=ScoreRequest,
    gives=list[Answer[ChurnResult]],
    answered_by=Prediction("churn", quick=True),
    summary="How likely each person is to stop buying",
    description="With `explain` the features that push each probability up, strongest first.",
    group="Predictions",
    hears_gpc=True,
    example_request={"user_ids": ["1"], "explain": True},
    example_response={"answers": [CHURN_ANSWER]},
)
