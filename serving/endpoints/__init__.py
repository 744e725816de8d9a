"""The endpoints of the service, one file each, in the order in which the document shows them."""

from __future__ import annotations

from aap.serving.endpoint import Endpoint
from serving.endpoints.anomalies import ANOMALIES
from serving.endpoints.churn import CHURN
from serving.endpoints.consent import CONSENT
from serving.endpoints.events import EVENTS
from serving.endpoints.privacy import ERASURES, EXPORTS
from serving.endpoints.receipts import RECEIPTS
from serving.endpoints.recommendations import RECOMMENDATIONS
from serving.endpoints.score import SCORE
from serving.endpoints.segments import SEGMENTS
from serving.endpoints.signals import SIGNALS
from serving.endpoints.similar_items import SIMILAR_ITEMS

__all__ = ["ENDPOINTS"]

ENDPOINTS: tuple[Endpoint, ...] = (
    RECOMMENDATIONS,
    SIMILAR_ITEMS,
    CHURN,
    SEGMENTS,
    ANOMALIES,
    SCORE,
    CONSENT,
    RECEIPTS,
    SIGNALS,
    EXPORTS,
    ERASURES,
    EVENTS,
)
