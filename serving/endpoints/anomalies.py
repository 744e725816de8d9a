"""/v1/anomalies: how unusual each person's activity is."""

from __future__ import annotations

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, Prediction, example_answer
from aap_client.requests import ScoreRequest
from aap_client.responses import AnomalyResult, Answer

__all__ = ["ANOMALIES"]

_RESULT = AnomalyResult(0.61, 0.58, True, ("amount_max_90d",))

ANOMALIES = Endpoint(
    name="anomalies",
    scope=Scope.PREDICT,
    takes=ScoreRequest,
    gives=list[Answer[AnomalyResult]],
    answered_by=Prediction("anomalies", quick=True),
    summary="How unusual each person's activity is",
    description="With `explain` the features furthest from usual.",
    group="Predictions",
    hears_gpc=True,
    example_request={"user_ids": ["1"], "explain": True},
    example_response={
        "answers": [
            example_answer("anomaly", Purpose.ESSENTIAL_FRAUD_DETECTION, _RESULT, reason="legitimate_interest"),
        ]
    },
)
