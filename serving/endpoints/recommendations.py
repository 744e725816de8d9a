"""/v1/recommendations: what each person may buy next."""

from __future__ import annotations

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, Prediction, example_answer, example_denial
from aap_client.requests import RecommendationRequest
from aap_client.responses import Answer, Item

__all__ = ["RECOMMENDATIONS"]

_OWN = (Item("1133018", "EGGS - X-LARGE", 0.22, "similar_taste", "Goes with FLUID MILK WHITE ONLY."),)
_POPULAR = (Item("1029743", "FLUID MILK WHITE ONLY", 0.41, "popular", "Popular with many customers."),)

RECOMMENDATIONS = Endpoint(
    name="recommendations",
    scope=Scope.PREDICT,
    takes=RecommendationRequest,
    gives=list[Answer[tuple[Item, ...]]],
    answered_by=Prediction("recommendations"),
    summary="What each person may buy next",
    description=(
        "Their own items for those who allow `personalize.profiling` and `personalize.profiled`; for everyone else what is "
        "popular. Without `strategy` the experiment decides, and the answer says which variant it was."
    ),
    group="Predictions",
    hears_gpc=True,
    example_request={
        "user_ids": ["1", "2"],
        "n": 2,
        "strategy": "discover",
        "filters": {"departments": ["GROCERY"], "exclude_items": ["1082185"]},
        "context": {"basket": ["995242"]},
        "explain": True,
    },
    example_response={
        "answers": [
            example_answer("recommendation", Purpose.PERSONALIZE_PROFILED, _OWN),
            example_denial("popularity", Purpose.PERSONALIZE_PROFILING, "refused", _POPULAR),
        ]
    },
)
