"""/v1/segments: the group of customers each person is most like."""

from __future__ import annotations

from aap.consent.purposes import Purpose
from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, Prediction, example_answer
from aap_client.requests import ScoreRequest
from aap_client.responses import Answer, SegmentResult

__all__ = ["SEGMENTS"]

_RESULT = SegmentResult(2, "frequent visitors, small baskets", 1.73)

SEGMENTS = Endpoint(
    name="segments",
    scope=Scope.PREDICT,
    takes=ScoreRequest,
    gives=list[Answer[SegmentResult]],
    answered_by=Prediction("segments", quick=True),
    summary="The group of customers each person is most like",
    group="Predictions",
    hears_gpc=True,
    example_request={"user_ids": ["1"]},
    example_response={"answers": [example_answer("segments", Purpose.ANALYTICS_REPORTING, _RESULT)]},
)
