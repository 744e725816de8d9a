"""The features and services of this platform. Adding a feature is one entry here; see docs/add-a-feature.md."""

from __future__ import annotations

import numpy as np

from aap.consent.purposes import Purpose
from aap.features.declarations import Aggregate, Entity, Feature, Op, Ratio, Service, Where, by_category
from aap.features.on_demand import OnRequest

__all__ = ["FEATURES", "ON_REQUEST", "SERVICES"]

_PROFILE = Purpose.PERSONALIZE_PROFILING
_RETAIN = Purpose.MARKETING_RETENTION
_REPORT = Purpose.ANALYTICS_REPORTING
_FRAUD = Purpose.ESSENTIAL_FRAUD_DETECTION
_BOUGHT = "product_purchased"
_DAYS = 20
"""Purchase days looked back on."""
_WEEKEND, _EVENING = Where("weekday", ">=", 5), Where("hour", ">=", 17)


def _for(*purposes: Purpose) -> frozenset[Purpose]:
    return frozenset(purposes)


def _baskets(
    window: str, *purposes: Purpose, where: Where | None = None, name: str = "", what: str = "Baskets"
) -> Aggregate:
    return Aggregate(
        event=_BOUGHT, op=Op.DISTINCT, column="basket_id", window=window, purposes=_for(*purposes), where=where,
        name=name or f"basket_count_{window}", unit="baskets", description=f"{what} bought, {_span(window)}.",
    )  # fmt: skip


def _spent(window: str, *purposes: Purpose, column: str = "amount", what: str = "Money spent") -> Aggregate:
    return Aggregate(
        event=_BOUGHT, op=Op.SUM, column=column, window=window, purposes=_for(*purposes), unit="currency",
        description=f"{what}, {_span(window)}.",
    )  # fmt: skip


def _kinds(column: str, window: str, *purposes: Purpose, name: str, what: str) -> Aggregate:
    return Aggregate(
        event=_BOUGHT, op=Op.DISTINCT, column=column, window=window, purposes=_for(*purposes), name=name,
        unit=what.lower(), description=f"Different {what.lower()} bought from, {_span(window)}.",
    )  # fmt: skip


def _share(name: str, part: str, whole: str, description: str, *purposes: Purpose, unit: str = "share") -> Ratio:
    return Ratio(
        name=name, numerator=part, denominator=whole, description=description, unit=unit, purposes=_for(*purposes)
    )


def _purchase_day(n: int) -> Aggregate:
    return Aggregate(
        event=_BOUGHT, op=Op.SINCE_NTH_DAY, n=n, purposes=_for(_RETAIN), name=f"days_since_purchase_day_{n}", unit="days",
        default=None, description=f"Days since purchase day {n}, counted back from the last, began (UTC).",
    )  # fmt: skip


def _span(window: str) -> str:
    return "ever" if window == "ever" else f"last {window.removesuffix('d')} days"


FEATURES: tuple[Feature, ...] = (
    # Recency and tenure
    Aggregate(
        event=_BOUGHT, op=Op.SINCE_LAST, purposes=_for(_PROFILE, _RETAIN, _REPORT), name="days_since_last_purchase",
        unit="days", default=None, description="Days since the last purchase.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.SINCE_FIRST, purposes=_for(_RETAIN, _REPORT), name="tenure_days",
        unit="days", default=None, description="Days since the first purchase.",
    ),
    Aggregate(
        event="coupon_redeemed", op=Op.SINCE_LAST, purposes=_for(_RETAIN), name="days_since_last_coupon",
        unit="days", default=None, description="Days since a coupon was last redeemed.",
    ),
    # Rhythm: the last days with a purchase tell how long somebody usually stays away, and ever did lately
    *(_purchase_day(n) for n in range(1, _DAYS + 1)),
    # Frequency
    _baskets("3d", _RETAIN),
    _baskets("7d", _RETAIN, _FRAUD),
    _baskets("14d", _RETAIN),
    _baskets("28d", _PROFILE, _RETAIN, _FRAUD),
    _baskets("56d", _RETAIN),
    _baskets("90d", _PROFILE, _RETAIN, _REPORT),
    _baskets("180d", _RETAIN),
    _baskets("ever", _RETAIN),
    # Money
    _spent("7d", _RETAIN, _FRAUD),
    _spent("14d", _RETAIN),
    _spent("28d", _RETAIN, _FRAUD),
    _spent("56d", _RETAIN),
    _spent("90d", _RETAIN, _REPORT),
    _spent("180d", _RETAIN),
    _spent("ever", _RETAIN),
    Aggregate(
        event=_BOUGHT, op=Op.MAX, column="amount", window="90d", purposes=_for(_RETAIN, _FRAUD), unit="currency",
        description="Largest purchase line, last 90 days.",
    ),
    # Breadth
    Aggregate(
        event=_BOUGHT, op=Op.SUM, column="quantity", window="28d", purposes=_for(_RETAIN, _FRAUD), unit="units",
        description="Units bought, last 28 days.",
    ),
    _kinds("item_id", "28d", _RETAIN, _FRAUD, name="product_distinct_28d", what="Products"),
    _kinds("item_id", "90d", _RETAIN, name="product_distinct_90d", what="Products"),
    _kinds("department", "28d", _RETAIN, name="department_distinct_28d", what="Departments"),
    _kinds("department", "90d", _PROFILE, _RETAIN, _REPORT, name="department_distinct_90d", what="Departments"),
    _kinds("store_id", "90d", _RETAIN, _FRAUD, name="store_distinct_90d", what="Stores"),
    *by_category(_spent("28d", _REPORT), column="department", among=("GROCERY", "DRUG GM", "PRODUCE")),
    # Price sense
    _spent("28d", _RETAIN, column="discount", what="Shop discounts received"),
    _spent("90d", _RETAIN, _REPORT, column="discount", what="Shop discounts received"),
    _spent("90d", _RETAIN, _FRAUD, column="coupon_discount", what="Coupon discounts received"),
    Aggregate(
        event="coupon_redeemed", op=Op.COUNT, window="90d", purposes=_for(_RETAIN, _FRAUD),
        name="coupon_redemption_count_90d", unit="coupons", description="Coupons redeemed, last 90 days.",
    ),
    Aggregate(
        event="campaign_received", op=Op.COUNT, window="90d", purposes=_for(_RETAIN), name="campaign_count_90d",
        unit="campaigns", description="Campaigns received, last 90 days.",
    ),
    # Habits
    _baskets("90d", _RETAIN, _REPORT, where=_WEEKEND, name="weekend_basket_count_90d", what="Weekend baskets"),
    _baskets("90d", _RETAIN, _REPORT, where=_EVENING, name="evening_basket_count_90d", what="Baskets after 17:00 UTC"),
    # Ratios
    _share("discount_share_90d", "discount_sum_90d", "amount_sum_90d",
           "Shop discounts per money spent, last 90 days.", _RETAIN, _REPORT),
    _share("weekend_basket_share_90d", "weekend_basket_count_90d", "basket_count_90d",
           "Share of baskets bought at the weekend, last 90 days.", _RETAIN, _REPORT),
    _share("evening_basket_share_90d", "evening_basket_count_90d", "basket_count_90d",
           "Share of baskets bought after 17:00 UTC, last 90 days.", _RETAIN, _REPORT),
    _share("basket_value_mean_90d", "amount_sum_90d", "basket_count_90d",
           "Money spent per basket, last 90 days.", _RETAIN, _REPORT, unit="currency"),
    _share("amount_trend_28d_90d", "amount_sum_28d", "amount_sum_90d",
           "Share of the last 90 days' spending that fell into the last 28.", _RETAIN),
    _share("basket_trend_7d_28d", "basket_count_7d", "basket_count_28d",
           "Share of the last 28 days' baskets that fell into the last 7.", _RETAIN),
    # What was bought, newest first
    Aggregate(
        event=_BOUGHT, op=Op.LAST_N, column="item_id", n=1000, purposes=_for(_PROFILE), name="product_last_1000",
        unit="products", default=None, description="The last 1,000 purchase lines' products, newest first.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.LAST_N, column="basket_id", n=1000, purposes=_for(_PROFILE), name="basket_last_1000",
        unit="baskets", default=None, description="The baskets of the same lines, line by line.",
    ),
    # Items
    Aggregate(
        event=_BOUGHT, op=Op.DISTINCT, column="user_key", window="28d", entity=Entity.ITEM, purposes=_for(_PROFILE),
        name="buyer_count_28d", unit="people", description="Different people who bought it, last 28 days.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.SUM, column="quantity", window="28d", entity=Entity.ITEM, purposes=_for(_PROFILE),
        name="item_quantity_sum_28d", unit="units", description="Units sold, last 28 days.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.COUNT, window="7d", entity=Entity.ITEM, purposes=_for(_PROFILE),
        name="item_sale_count_7d", unit="lines", description="Purchase lines, last 7 days.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.SUM, column="amount", window="28d", entity=Entity.ITEM, purposes=_for(_PROFILE),
        name="item_amount_sum_28d", unit="currency", description="Money taken, last 28 days.",
    ),
    Aggregate(
        event=_BOUGHT, op=Op.SINCE_LAST, entity=Entity.ITEM, purposes=_for(_PROFILE),
        name="days_since_last_sale", unit="days", default=None, description="Days since it was last sold.",
    ),
)  # fmt: skip


def _against_usual(basket_value: np.ndarray, amount_sum_28d: np.ndarray, basket_count_28d: np.ndarray) -> np.ndarray:
    return np.asarray(basket_value * basket_count_28d / amount_sum_28d)


ON_REQUEST: tuple[OnRequest, ...] = (
    OnRequest(
        name="basket_against_usual_28d", function=_against_usual, request=("basket_value",),
        features=("amount_sum_28d", "basket_count_28d"), purposes=_for(_FRAUD), unit="ratio",
        description="Value of the basket at hand per mean value of the baskets of the last 28 days.",
    ),
)  # fmt: skip

_TRAIN = frozenset({Purpose.TRAIN_AI_SYSTEM})

SERVICES: tuple[Service, ...] = (
    Service(
        name="recommendation",
        purpose=_PROFILE,
        features=("days_since_last_purchase", "basket_count_28d", "basket_count_90d", "department_distinct_90d"),
        sequences=("product_last_1000", "basket_last_1000"),
        to_train=_TRAIN,
        to_answer=frozenset({Purpose.PERSONALIZE_PROFILED}),
    ),
    Service(
        name="churn",
        purpose=_RETAIN,
        features=(
            "days_since_last_purchase", "tenure_days", "basket_count_7d", "basket_count_28d", "basket_count_90d",
            "amount_sum_7d", "amount_sum_28d", "amount_sum_90d", "quantity_sum_28d", "product_distinct_28d",
            "product_distinct_90d", "department_distinct_28d", "department_distinct_90d", "store_distinct_90d",
            "discount_sum_28d", "discount_sum_90d", "coupon_discount_sum_90d", "discount_share_90d",
            "coupon_redemption_count_90d", "campaign_count_90d", "weekend_basket_share_90d", "evening_basket_share_90d",
            "basket_value_mean_90d", "amount_trend_28d_90d", "basket_trend_7d_28d", "amount_max_90d", "amount_sum_ever",
            "basket_count_ever", "days_since_last_coupon", "basket_count_3d", "basket_count_14d", "basket_count_56d",
            "basket_count_180d", "amount_sum_14d", "amount_sum_56d", "amount_sum_180d",
            *(f"days_since_purchase_day_{n}" for n in range(1, _DAYS + 1)),
        ),
        to_train=_TRAIN,
    ),
    Service(
        name="segments",
        purpose=_REPORT,
        features=(
            "days_since_last_purchase", "tenure_days", "basket_count_90d", "amount_sum_90d", "basket_value_mean_90d",
            "department_distinct_90d", "discount_share_90d", "weekend_basket_share_90d", "evening_basket_share_90d",
        ),
        to_train=_TRAIN,
    ),
    Service(
        name="anomaly",
        purpose=_FRAUD,
        features=(
            "basket_count_7d", "basket_count_28d", "amount_sum_7d", "amount_sum_28d", "quantity_sum_28d",
            "coupon_redemption_count_90d", "coupon_discount_sum_90d", "product_distinct_28d", "store_distinct_90d",
            "amount_max_90d",
        ),
    ),
)  # fmt: skip
