"""Readable names for segments, from how each differs from everyone: "big spenders, discount seekers"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["names_of"]

_WORDS: tuple[tuple[str, str, str], ...] = (
    ("amount_sum", "big spenders", "small spenders"),
    ("basket_value", "large baskets", "small baskets"),
    ("basket_count", "frequent visitors", "rare visitors"),
    ("days_since_last_purchase", "long away", "recently seen"),
    ("tenure", "long-standing", "newcomers"),
    ("department_distinct", "wide choice", "narrow choice"),
    ("product_distinct", "wide choice", "narrow choice"),
    ("discount_share", "discount seekers", "full-price buyers"),
    ("weekend_basket_share", "weekend shoppers", "weekday shoppers"),
    ("evening_basket_share", "evening shoppers", "daytime shoppers"),
)
_NOTABLE = 0.35
"""In robust standard deviations; about the shift that moves a median person past 64 % of everyone."""


def names_of(shifts: np.ndarray, *, features: Sequence[str], most: int = 2) -> tuple[str, ...]:
    """One distinct name a segment, from its up to `most` largest shifts.

    `shifts`: float `[n_segments, n_features]`, median of each scaled feature in the segment; 0 is everyone's median.
    """
    names: list[str] = []
    for row in shifts:
        order = np.argsort(-np.abs(row), kind="stable")
        words = list(dict.fromkeys(_word(features[j], above=row[j] > 0) for j in order if abs(row[j]) >= _NOTABLE))
        name = ", ".join(words[:most]) or "typical"
        extra = words[most:]
        while name in names and extra:
            name = f"{name}, {extra.pop(0)}"
        names.append(name if name not in names else f"{name} ({names.count(name) + len(names)})")
    return tuple(names)


def _word(feature: str, *, above: bool) -> str:
    for prefix, high, low in _WORDS:
        if feature.startswith(prefix):
            return high if above else low
    return f"{'high' if above else 'low'} {feature}"
