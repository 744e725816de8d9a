"""/v1/score: several questions in one call."""

from __future__ import annotations

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, example_denial
from aap.serving.http.prediction_handlers import asking_several
from aap_client.requests import MixedRequest
from aap_client.responses import ChurnAnswered, Mixed, RecommendationsAnswered
from serving.endpoints.churn import CHURN_ANSWER

__all__ = ["SCORE"]

SCORE = Endpoint(
    name="score",
    scope=Scope.PREDICT,
    takes=MixedRequest,
    gives=Mixed,
    answered_by=asking_several,
    summary="Several questions in one call",
    description="Each is answered as its endpoint would; one that can't be answered doesn't keep the others from it.",
    group="Predictions",
    hears_gpc=True,
    example_request={
        "requests": [
            {"endpoint": "churn", "user_ids": ["1", "2"]},
            {"endpoint": "recommendations", "user_ids": ["1"], "n": 1},
        ]
    },
    example_response=Mixed(
        [
            ChurnAnswered(200, [CHURN_ANSWER, example_denial("churn", Purpose.MARKETING_RETENTION, "withdrawn", None)]),
            RecommendationsAnswered(
                503, error="Model recommendation can't answer yet: run `aap train` or `aap retrain`."
            ),
        ]
    ),
)
