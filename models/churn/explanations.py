"""Why somebody may leave, in the words of what they did: "spend fell from 84 to 12 in four weeks"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["sentences"]

_TOPICS = (
    ("days_since_last_coupon", "coupons"),
    ("coupon", "coupons"),
    ("days_since_last", "away"),
    ("late_by", "away"),
    ("purchase_day", "rhythm"),
    ("gap", "rhythm"),
    ("basket_value", "basket value"),
    ("weekend", "weekend"),
    ("evening", "evening"),
    ("basket", "visits"),
    ("discount", "discounts"),
    ("amount_max", "largest"),
    ("amount", "spend"),
    ("product", "products"),
    ("department", "departments"),
    ("quantity", "units"),
    ("store", "stores"),
    ("campaign", "campaigns"),
    ("tenure", "tenure"),
)
"""What part of a name says what it is about; the first that fits counts."""


def sentences(names: Sequence[str], pushes: np.ndarray, values: Mapping[str, float], *, most: int) -> list[str]:
    """The topics that push one person's score up, the strongest first, `most` at most, a sentence each.

    `pushes` float `[n_names]`: each column's SHAP value, in log odds; those of one topic are added up. `values`: the
    person's features, by name.
    """
    weight: dict[str, float] = {}
    strongest: dict[str, tuple[float, str]] = {}
    for name, push in zip(names, pushes.tolist(), strict=True):
        topic = _topic(name)
        weight[topic] = weight.get(topic, 0.0) + push
        strongest[topic] = max(strongest.get(topic, (float("-inf"), "")), (push, name))
    order = sorted((-push, topic) for topic, push in weight.items() if push > 0)
    return [_sentence(topic, strongest[topic][1], values) for _, topic in order[:most]]


def _topic(name: str) -> str:
    return next((topic for part, topic in _TOPICS if part in name), name)


def _sentence(topic: str, name: str, values: Mapping[str, float]) -> str:
    told = {
        "away": _away,
        "visits": lambda v: _fell(v, "basket_count", "visits"),
        "spend": lambda v: _fell(v, "amount_sum", "spend"),
        "rhythm": _rhythm,
        "tenure": lambda v: f"customer for {v['tenure_days']:.0f} days" if _known(v, "tenure_days") else "",
        "products": lambda v: _count(v, "product_distinct_28d", "different products in four weeks"),
        "departments": lambda v: _count(v, "department_distinct_28d", "departments in four weeks"),
        "units": lambda v: _count(v, "quantity_sum_28d", "units in four weeks"),
        "stores": lambda v: _count(v, "store_distinct_90d", "stores in 90 days"),
        "campaigns": lambda v: _count(v, "campaign_count_90d", "campaigns received in 90 days"),
        "coupons": lambda v: _count(v, "coupon_redemption_count_90d", "coupons used in 90 days"),
        "largest": lambda v: _count(v, "amount_max_90d", "was the largest line in 90 days"),
        "discounts": lambda v: _share(v, "discount_share_90d", "of spend in discounts"),
        "weekend": lambda v: _share(v, "weekend_basket_share_90d", "of visits at the weekend"),
        "evening": lambda v: _share(v, "evening_basket_share_90d", "of visits in the evening"),
        "basket value": lambda v: _count(v, "basket_value_mean_90d", "spent a visit"),
    }.get(topic)
    sentence = told(values) if told else ""
    return sentence or (f"{name} is {values[name]:.3g}" if _known(values, name) else f"{name} is not known")


def _known(values: Mapping[str, float], *names: str) -> bool:
    return all(not np.isnan(values.get(name, np.nan)) for name in names)


def _away(values: Mapping[str, float]) -> str:
    if not _known(values, "days_since_last_purchase"):
        return "no purchase is known"
    away = f"last visit {values['days_since_last_purchase']:.0f} days ago"
    if not _known(values, "basket_count_90d") or not values["basket_count_90d"]:
        return away
    usual = min(90.0, values.get("tenure_days", 90.0)) / values["basket_count_90d"]
    return f"{away}, usually every {max(1.0, usual):.0f}"


def _fell(values: Mapping[str, float], what: str, called: str) -> str:
    """The last four weeks beside four usual weeks of the last 90 days, or of the time the person is known."""
    if not _known(values, f"{what}_28d", f"{what}_90d"):
        return ""
    known = float(np.clip(values.get("tenure_days", 90.0), 28.0, 90.0))
    usual, now = values[f"{what}_90d"] * 28.0 / known, values[f"{what}_28d"]
    if now < 0.9 * usual:
        return f"{called} fell from {usual:.0f} to {now:.0f} in four weeks"
    return f"{called} of {now:.0f} in four weeks"


def _rhythm(values: Mapping[str, float]) -> str:
    if not _known(values, "gap_median", "gap_longest"):
        return "has come on one day only" if _known(values, "days_since_purchase_day_1") else ""
    return (
        f"{values['gap_median']:.0f} days between visits as a rule, {values['gap_longest']:.0f} at the longest of late"
    )


def _count(values: Mapping[str, float], name: str, words: str) -> str:
    return f"{values[name]:.0f} {words}" if _known(values, name) else ""


def _share(values: Mapping[str, float], name: str, words: str) -> str:
    return f"{values[name]:.0%} {words}" if _known(values, name) else ""
