"""One question and one answer of each endpoint, as the OpenAPI document shows them.

Answers are made of the very types that endpoints give, so that none can show a field that isn't there.
"""

from __future__ import annotations

from typing import Any

from consent.purposes import Purpose
from serving.answers import (
    AnomalyResult,
    Answer,
    ChurnAnswered,
    ChurnResult,
    ConsentAnswer,
    ConsentRecorded,
    EventsCollected,
    Item,
    Mixed,
    ModelUsed,
    Outcome,
    R,
    RecommendationsAnswered,
    SegmentResult,
    SimilarItems,
)
from serving.health import Readiness
from serving.privacy_requests import Receipts, SignalRecorded

__all__ = ["ANSWERED", "ASKED", "NOT_READY", "READY"]

ASKED: dict[str, dict[str, Any]] = {
    "/v1/recommendations": {
        "user_ids": ["1", "2"],
        "n": 2,
        "strategy": "discover",
        "filters": {"departments": ["GROCERY"], "exclude_items": ["1082185"]},
        "context": {"basket": ["995242"]},
        "explain": True,
    },
    "/v1/similar-items": {"item_ids": ["1082185"], "n": 2},
    "/v1/churn": {"user_ids": ["1"], "explain": True},
    "/v1/segments": {"user_ids": ["1"]},
    "/v1/anomalies": {"user_ids": ["1"], "explain": True},
    "/v1/score": {
        "requests": [
            {"endpoint": "churn", "user_ids": ["1", "2"]},
            {"endpoint": "recommendations", "user_ids": ["1"], "n": 1},
        ]
    },
    "/v1/consent": {"user_id": "1", "purpose": "personalize.profiled", "choice": "withdraw"},
    "/v1/consent/receipts": {"user_id": "1"},
    "/v1/consent/signals": {"user_id": "1", "signal": "gpc", "on": True},
    "/v1/privacy/exports": {"user_id": "1"},
    "/v1/privacy/erasures": {"user_id": "1", "confirm": "erase everything"},
    "/v1/events": {
        "events": [
            {
                "source": "web",
                "id": "7f3a",
                "type": "product_viewed",
                "user_id": "1",
                "occurred_at": "2018-01-01T12:00:00Z",
                "properties": {"item_id": "1082185"},
            }
        ]
    },
}

_ID = "9857922ada543e5990e86923e2e49a98"
_DENIED_ID = "607baaee3cc8c67844bbca9017c64171"


def _answered(name: str, purpose: Purpose, result: R, *, reason: str = "granted") -> Answer[R]:
    """An answer that rests on what we know of the person."""
    consent = ConsentAnswer(True, purpose, reason)
    return Answer(_ID, ModelUsed(name, "1"), None, consent, Outcome.ANSWERED, result)


def _denied(name: str, purpose: Purpose, reason: str, result: R | None) -> Answer[R]:
    """An answer that rests on nothing about the person."""
    consent = ConsentAnswer(False, purpose, reason)
    return Answer(_DENIED_ID, ModelUsed(name, "1"), None, consent, Outcome.DENIED, result)


_POPULAR = (Item("1029743", "FLUID MILK WHITE ONLY", 0.41, "popular", "Popular with many customers."),)
_CHURN = _answered(
    "churn",
    Purpose.MARKETING_RETENTION,
    ChurnResult(0.187, 28, ("visits fell from 9 to 4 in four weeks", "last visit 11 days ago, usually every 3")),
)
ANSWERED: dict[str, Any] = {
    "/v1/recommendations": {
        "answers": [
            _answered(
                "recommendation",
                Purpose.PERSONALIZE_PROFILED,
                (Item("1133018", "EGGS - X-LARGE", 0.22, "similar_taste", "Goes with FLUID MILK WHITE ONLY."),),
            ),
            _denied("popularity", Purpose.PERSONALIZE_PROFILING, "refused", _POPULAR),
        ]
    },
    "/v1/similar-items": {
        "answers": [
            SimilarItems(
                "1082185",
                ModelUsed("recommendation", "1"),
                (
                    Item("981760", "EGGS - LARGE", 0.38, "similar_item"),
                    Item("995242", "MAINSTREAM", 0.31, "similar_item"),
                ),
            )
        ]
    },
    "/v1/churn": {"answers": [_CHURN]},
    "/v1/segments": {
        "answers": [
            _answered(
                "segments", Purpose.ANALYTICS_REPORTING, SegmentResult(2, "frequent visitors, small baskets", 1.73)
            )
        ]
    },
    "/v1/anomalies": {
        "answers": [
            _answered(
                "anomaly",
                Purpose.ESSENTIAL_FRAUD_DETECTION,
                AnomalyResult(0.61, 0.58, True, ("amount_max_90d",)),
                reason="legitimate_interest",
            )
        ]
    },
    "/v1/score": Mixed(
        [
            ChurnAnswered(200, [_CHURN, _denied("churn", Purpose.MARKETING_RETENTION, "withdrawn", None)]),
            RecommendationsAnswered(
                503, error="Model recommendation can't answer yet: run `aap train` or `aap retrain`."
            ),
        ]
    ),
    "/v1/consent": ConsentRecorded(Purpose.PERSONALIZE_PROFILED, "withdraw", 29_969),
    "/v1/consent/receipts": Receipts(
        [
            {
                "receipt_metadata": {
                    "schema_version": "https://w3id.org/dpv/schema/iso-27560#receipt",
                    "receipt_id": "ledger-29969",
                }
            }
        ],
        "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n",
    ),
    "/v1/consent/signals": SignalRecorded("gpc", True, 29_970),
    "/v1/privacy/exports": {
        "format": "aap person export 1",
        "exported_at": "2018-01-01T12:00:00+00:00",
        "user_id": "1",
        "consents": [],
        "events": {},
        "predictions": [],
        "reads": [],
    },
    "/v1/privacy/erasures": {
        "kind": "erasure certificate",
        "controller": "The operator of this platform",
        "erased_at": "2018-01-01T12:00:00+00:00",
        "places": [
            {"place": "event archive", "method": "files rewritten without the person", "before": 12, "after": 0}
        ],
        "models": [],
    },
    "/v1/events": EventsCollected(accepted=0, duplicates=0, choices=0, refused={"no_record": 1}, rejected={}),
}
"""Of a receipt, an export and a certificate only the first parts, which are the same in each."""
READY = Readiness(True, models={"churn": "1"})
NOT_READY = Readiness(False, missing={"model churn": "it has no champion; run `aap train` or `aap retrain`."})
