"""What the OpenAPI document says of each endpoint: what it is for, what it takes and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.answers import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentRecorded,
    EventsCollected,
    Item,
    Mixed,
    SegmentResult,
    SimilarItems,
)
from serving.privacy_requests import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest
from serving.requests import (
    ChoiceRequest,
    EventsRequest,
    MixedRequest,
    RecommendationRequest,
    ScoreRequest,
    SimilarRequest,
)

__all__ = ["PAGES", "Page"]


@dataclass(frozen=True, slots=True)
class Page:
    """What the document says of one endpoint."""

    path: str
    summary: str
    takes: Any
    gives: Any
    about: str = ""
    group: str = "Predictions"

    @property
    def wrapped(self) -> bool:
        """Whether what it gives comes as the `answers` of an object."""
        return self.group == "Predictions" and self.gives is not Mixed

    @property
    def hears_gpc(self) -> bool:
        """Whether a call that carries the Global Privacy Control is answered otherwise."""
        return self.takes is ChoiceRequest or (self.group == "Predictions" and self.takes is not SimilarRequest)


PAGES = (
    Page(
        "/v1/recommendations",
        "What each person may buy next",
        RecommendationRequest,
        list[Answer[tuple[Item, ...]]],
        "Their own items for those who allow `personalize.profiling` and `personalize.profiled`; for everyone else what is "
        "popular. Without `strategy` the experiment decides, and the answer says which variant it was.",
    ),
    Page(
        "/v1/similar-items",
        "Items like an item",
        SimilarRequest,
        list[SimilarItems],
        "By what the same people buy. Asks for nobody's data, so for nobody's consent.",
    ),
    Page(
        "/v1/churn",
        "How likely each person is to stop buying",
        ScoreRequest,
        list[Answer[ChurnResult]],
        "With `explain` the features that push each probability up, strongest first.",
    ),
    Page(
        "/v1/segments",
        "The group of customers each person is most like",
        ScoreRequest,
        list[Answer[SegmentResult]],
    ),
    Page(
        "/v1/anomalies",
        "How unusual each person's activity is",
        ScoreRequest,
        list[Answer[AnomalyResult]],
        "With `explain` the features furthest from usual.",
    ),
    Page(
        "/v1/score",
        "Several questions in one call",
        MixedRequest,
        Mixed,
        "Each is answered as its endpoint would; one that can't be answered doesn't keep the others from it.",
    ),
    Page(
        "/v1/consent",
        "Grant or withdraw one purpose for one person",
        ChoiceRequest,
        ConsentRecorded,
        "Needs a key with the scope `consent`. When it answers 200, every later answer obeys the choice.",
        group="Consent and events",
    ),
    Page(
        "/v1/consent/receipts",
        "A receipt for each choice of one person",
        PersonRequest,
        Receipts,
        "Needs a key with the scope `consent`. Each can be checked offline with the public key (ISO/IEC TS 27560:2023).",
        group="Consent and events",
    ),
    Page(
        "/v1/consent/signals",
        "Set or lift a person's Global Privacy Control",
        SignalRequest,
        SignalRecorded,
        "Needs a key with the scope `consent`. While it is set, `marketing.*` and `third_party_sharing` are refused; a call "
        "with the header `Sec-GPC: 1` is answered so whatever is set.",
        group="Consent and events",
    ),
    Page(
        "/v1/privacy/exports",
        "Everything held of one person",
        PersonRequest,
        dict[str, Any],
        "Needs a key with the scope `privacy`. The same as `data.json` of `aap export`.",
        group="A person's rights",
    ),
    Page(
        "/v1/privacy/erasures",
        "Erase one person everywhere",
        ErasureRequest,
        dict[str, Any],
        "Needs a key with the scope `privacy`. Takes some seconds; gives the signed certificate. Refused with 503 while an "
        "import or a retrain runs.",
        group="A person's rights",
    ),
    Page(
        "/v1/events",
        "Take in what happened",
        EventsRequest,
        EventsCollected,
        "Needs a key with the scope `collect`. What consent doesn't cover is counted and kept nowhere.",
        group="Consent and events",
    ),
)
