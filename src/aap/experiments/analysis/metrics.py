"""Metrics: what an experiment may be judged by, each a sum or a share over one person's events of one type.

Adding a metric is one entry here. Its event type must be one that `analytics.reporting` may touch.
"""

from __future__ import annotations

from dataclasses import dataclass

from aap.consent.purposes import Purpose
from aap.events.schema import event_type
from aap.experiments.errors import UnknownMetric

__all__ = ["METRICS", "REPORTING", "SERVICE_METRICS", "Metric", "metric"]

REPORTING = Purpose.ANALYTICS_REPORTING
"""What a person allows whose events are counted."""

SERVICE_METRICS = {"latency_ms": "milliseconds a person answered", "error_share": "calls that failed"}
"""Of calls, not of people: for guardrails only."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`numerator` and `denominator` are DuckDB aggregates over a person's events `e`; without a denominator the metric is
    a mean over people, who count as 0 without an event.
    """

    name: str
    event: str
    numerator: str
    what: str
    denominator: str | None = None

    def __post_init__(self) -> None:
        if REPORTING not in event_type(self.event).purposes:
            raise UnknownMetric(f"Metric {self.name!r} counts {self.event}, which {REPORTING} may not touch.")


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("spend", "product_purchased", "sum(e.amount) / 100.0", "money spent a person"),
        Metric("baskets", "product_purchased", "count(DISTINCT e.basket_id)", "baskets bought a person"),
        Metric("units", "product_purchased", "sum(e.quantity)", "units bought a person"),
        Metric("buyers", "product_purchased", "1.0", "share of people who bought"),
        Metric(
            "basket_value",
            "product_purchased",
            "sum(e.amount) / 100.0",
            "money spent a basket",
            denominator="count(DISTINCT e.basket_id)",
        ),
        Metric("views", "product_viewed", "count(*)", "products looked at a person"),
        Metric("coupons", "coupon_redeemed", "count(*)", "coupons used a person"),
    )
}


def metric(name: str) -> Metric:
    """The metric called `name`; raises `UnknownMetric` naming the ones there are."""
    try:
        return METRICS[name]
    except KeyError:
        raise UnknownMetric(f"Unknown metric {name!r}: choose one of {', '.join(METRICS)}.") from None
