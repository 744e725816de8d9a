"""What a purchase line and a session look like as numbers: the same in training and while events come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aap.features.datasets import Interactions, TrainingFrame
from aap.features.declarations import DAY_US

__all__ = ["LINE_FEATURES", "SESSION_FEATURES", "Doings", "frame_of"]

LINE_FEATURES = ("line_quantity", "line_amount", "line_unit_price", "line_hour")
SESSION_FEATURES = (
    "session_lines",
    "session_product_distinct",
    "session_category_distinct",
    "session_quantity_sum",
    "session_amount_sum",
    "session_largest_line",
    "session_hour",
)


@dataclass(frozen=True, slots=True)
class Doings:
    """Lines, or sessions, one row each."""

    first: np.ndarray
    """int64 `[n]`, which of the purchase lines it is, or begins with."""
    values: np.ndarray
    """float64 `[n, n_features]`; NaN where a line doesn't say."""

    @classmethod
    def lines(cls, columns: Mapping[str, Sequence[object]], occurred: np.ndarray) -> Doings:
        """Each line of `columns` (quantity, amount), which happened at `occurred` (int64, microseconds since 1970).

        Pieces, money, money a piece, and hour of the day (UTC, 0 to 24).
        """
        quantity, amount = (_numbers(columns[name]) for name in ("quantity", "amount"))
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(quantity > 0, amount / quantity, np.nan)
        return cls(np.arange(len(occurred)), np.column_stack([quantity, amount, price, _hours(occurred)]))

    @classmethod
    def sessions(
        cls, columns: Mapping[str, Sequence[object]], occurred: np.ndarray, *, people: Sequence[str] | np.ndarray
    ) -> Doings:
        """Each basket of one person (columns basket_id, item_id, category, quantity, amount), in the lines' own order.

        Lines, different products and categories, pieces, money, the largest line's money, and hour of the day (UTC) of
        its first line. Lines without a basket are left out.
        """
        lines = pd.DataFrame(
            {
                "person": pd.Series(people, dtype=object),
                "basket": pd.Series(columns["basket_id"], dtype=object),
                "item": pd.Series(columns["item_id"], dtype=object),
                "category": pd.Series(columns["category"], dtype=object),
                "quantity": _numbers(columns["quantity"]),
                "amount": _numbers(columns["amount"]),
                "hour": _hours(occurred),
                "place": np.arange(len(occurred)),
            }
        )
        groups = lines.dropna(subset=["basket"]).groupby(["person", "basket"], sort=False)
        found = groups.agg(
            lines=("item", "size"),
            products=("item", "nunique"),
            categories=("category", "nunique"),
            quantity=("quantity", "sum"),
            amount=("amount", "sum"),
            largest=("amount", "max"),
            hour=("hour", "first"),
            place=("place", "first"),
        )
        return cls(found.pop("place").to_numpy(np.int64), found.to_numpy(np.float64).reshape(-1, len(SESSION_FEATURES)))


def frame_of(interactions: Interactions, *, sessions: bool, most: int) -> TrainingFrame:
    """The lines, or sessions, of `interactions`, at most `most` of them, evenly drawn from the canonical order.

    A row's `as_of` is when it happened.
    """
    table = interactions.table
    columns = {name: table[name].to_pandas() for name in ("basket_id", "item_id", "category", "quantity", "amount")}
    when = table["occurred_at"].to_pandas()
    people, occurred = table["user_key"].to_pandas(), when.astype("datetime64[us, UTC]").astype(np.int64).to_numpy()
    found = Doings.sessions(columns, occurred, people=people) if sessions else Doings.lines(columns, occurred)
    kept = np.arange(0, len(found.first), max(1, -(-len(found.first) // most)))
    features = SESSION_FEATURES if sessions else LINE_FEATURES
    data = pd.DataFrame(found.values[kept], columns=list(features))
    places = found.first[kept]
    data.insert(0, "user_key", people.to_numpy()[places])
    data.insert(1, "as_of", when.iloc[places].reset_index(drop=True))
    return TrainingFrame(data, features, interactions.manifest)


def _hours(occurred: np.ndarray) -> np.ndarray:
    return (np.asarray(occurred) % DAY_US) / (DAY_US / 24)


def _numbers(values: Sequence[object]) -> np.ndarray:
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(np.float64)
