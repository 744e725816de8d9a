"""Stated kinds of anomaly, five for customers, planted into copies of ordinary rows, to judge by when nothing is labelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["KINDS", "plant"]

_TIMES = 6.0
_Change = Callable[[np.ndarray, tuple[str, ...], np.random.Generator], bool]


def plant(ordinary: np.ndarray, *, features: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """Changed copies of a twentieth of the rows (at least 5), one set for each kind that these features can show.

    `ordinary`: float64 `[n, n_features]`. The same seed plants the same rows.
    """
    generator = np.random.default_rng(seed)
    size = max(5, len(ordinary) // 20)
    found = {}
    for kind, change in KINDS.items():
        rows = ordinary[generator.integers(0, len(ordinary), size=size)].copy()
        if change(rows, features, generator):
            found[kind] = rows
    return found


def _burst(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """A week, or a session, of six times the usual: an account taken over or shared."""
    session = {"session_lines", "session_quantity_sum", "session_amount_sum"}
    return _multiply(rows, [name.endswith("_7d") or name in session for name in features])


def _coupon_storm(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Six times the coupons of a customer who uses some."""
    return _multiply(rows, ["coupon" in name for name in features])


def _bulk(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Six times the pieces of a single product: reselling. Each number alone may be ordinary."""
    single = [name.startswith(("product_distinct", "session_product", "session_category")) for name in features]
    line = "line_quantity" in features
    bought = [
        name.startswith(("quantity_sum", "session_quantity", "line_quantity", "line_amount")) for name in features
    ]
    if not (line or any(single)) or not _multiply(rows, bought):
        return False
    rows[:, single] = 1.0
    return True


def _many_stores(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Six times as many different stores: a card that was copied."""
    return _multiply(rows, [name.startswith("store_distinct") for name in features])


def _overcharged(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Six times the price of a piece: a wrong price, or a refund in the making."""
    return _multiply(rows, [name in ("line_amount", "line_unit_price", "session_largest_line") for name in features])


def _at_night(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """In the small hours, chosen evenly from the six of the day in which least happens."""
    column = [place for place, name in enumerate(features) if name.endswith("_hour")]
    if not column:
        return False
    counts, _ = np.histogram(rows[:, column[0]], bins=24, range=(0, 24))
    quiet = np.argsort(counts + np.roll(counts, 1) + np.roll(counts, -1), kind="stable")[:6]
    rows[:, column[0]] = generator.choice(quiet, size=len(rows)) + 0.5
    return True


def _mixed(rows: np.ndarray, features: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Each number from another person: every one ordinary, together impossible (a week above its month, say)."""
    for column in range(rows.shape[1]):
        rows[:, column] = generator.permutation(rows[:, column])
    return rows.shape[1] > 1


KINDS: dict[str, _Change] = {
    "burst": _burst,
    "coupon_storm": _coupon_storm,
    "bulk_of_one_product": _bulk,
    "many_stores": _many_stores,
    "overcharged": _overcharged,
    "at_night": _at_night,
    "mixed_up": _mixed,
}


def _multiply(rows: np.ndarray, columns: list[bool]) -> bool:
    """Multiply in place; a person with none counts as an average customer first. False if there is no such column."""
    if not any(columns):
        return False
    usual = np.maximum(np.nan_to_num(np.nanmean(rows[:, columns], axis=0)), 1e-9)
    found = np.nan_to_num(rows[:, columns])
    rows[:, columns] = np.where(found > 0, found, usual) * _TIMES
    return True
