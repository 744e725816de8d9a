"""/v1/similar-items: items like an item."""

from __future__ import annotations

from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint, Prediction
from aap_client.requests import SimilarRequest
from aap_client.responses import Item, ModelUsed, SimilarItems

__all__ = ["SIMILAR_ITEMS"]

_ALIKE = (
    Item("981760", "EGGS - LARGE", 0.38, "similar_item"),
    Item("995242", "MAINSTREAM", 0.31, "similar_item"),
)

SIMILAR_ITEMS = Endpoint(
    name="similar-items",
    scope=Scope.PREDICT,
    takes=SimilarRequest,
    gives=list[SimilarItems],
    answered_by=Prediction("similar"),
    summary="Items like an item",
    description="By what the same people buy. Asks for nobody's data, so for nobody's consent.",
    group="Predictions",
    example_request={"item_ids": ["1082185"], "n": 2},
    example_response={"answers": [SimilarItems("1082185", ModelUsed("recommendation", "1"), _ALIKE)]},
)
