"""A shop for tests: purchases in memory, and a retrieval door over them that computes a few of the real features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from aap.features.datasets import Interactions, Manifest, TrainingFrame

START = datetime(2024, 1, 1, tzinfo=UTC)
_CUT = "coalesce(sum({value}) filter (where p.occurred_at > l.as_of - interval {days} day), 0)::double"
_DISTINCT = "count(distinct {value}) filter (where p.occurred_at > l.as_of - interval {days} day)::double"
_SHARE = "avg(({condition})::double) filter (where p.occurred_at > l.as_of - interval 90 day)"
_COLUMNS = {
    "days_since_last_purchase": "date_diff('second', max(p.occurred_at), l.as_of) / 86400.0",
    "tenure_days": "date_diff('second', min(p.occurred_at), l.as_of) / 86400.0",
    "basket_count_7d": _DISTINCT.format(value="p.basket", days=7),
    "basket_count_28d": _DISTINCT.format(value="p.basket", days=28),
    "basket_count_90d": _DISTINCT.format(value="p.basket", days=90),
    "amount_sum_7d": _CUT.format(value="p.amount", days=7),
    "amount_sum_28d": _CUT.format(value="p.amount", days=28),
    "amount_sum_90d": _CUT.format(value="p.amount", days=90),
    "quantity_sum_28d": _CUT.format(value="p.quantity", days=28),
    "product_distinct_28d": _DISTINCT.format(value="p.item_id", days=28),
    "product_distinct_90d": _DISTINCT.format(value="p.item_id", days=90),
    "store_distinct_90d": _DISTINCT.format(value="p.store", days=90),
    "coupon_redemption_count_90d": _CUT.format(value="p.coupon", days=90),
    "discount_sum_90d": _CUT.format(value="p.discount", days=90),
    "evening_basket_share_90d": _SHARE.format(condition="hour(p.occurred_at) >= 18"),
    "weekend_basket_share_90d": _SHARE.format(condition="isodow(p.occurred_at) >= 6"),
    "amount_max_90d": "coalesce(max(p.amount) filter (where p.occurred_at > l.as_of - interval 90 day), 0)::double",
    "basket_count_ever": "count(distinct p.basket)::double",
}
_DERIVED = ("basket_value_mean_90d", "discount_share_90d", "amount_trend_28d_90d", "basket_trend_7d_28d")
_SERVICES = {
    "churn": (*_COLUMNS, *_DERIVED),
    "segments": (
        "days_since_last_purchase",
        "tenure_days",
        "basket_count_90d",
        "amount_sum_90d",
        "basket_value_mean_90d",
        "discount_share_90d",
        "weekend_basket_share_90d",
        "evening_basket_share_90d",
    ),
    "anomaly": (
        "basket_count_7d",
        "basket_count_28d",
        "amount_sum_7d",
        "amount_sum_28d",
        "quantity_sum_28d",
        "coupon_redemption_count_90d",
        "product_distinct_28d",
        "store_distinct_90d",
        "amount_max_90d",
    ),
}


def purchases(*, people: int, items: int, days: int, seed: int) -> pd.DataFrame:
    """Lines of a made-up shop: people have favourite items and a rhythm, and some stop coming for good.

    Columns user_key, item_id, occurred_at, quantity, amount, discount, basket, store, coupon.
    """
    generator = np.random.default_rng(seed)
    appeal = 1.0 / np.arange(1, items + 1) ** 0.7
    parts = []
    for person in range(people):
        gap, stays = generator.gamma(3.0, 3.0), days if generator.random() < 0.6 else generator.integers(20, days)
        when = np.cumsum(generator.exponential(gap, size=int(days / gap) + 3))
        when = when[when < stays]
        taste = appeal * np.where(np.arange(items) % 4 == person % 4, 8.0, 1.0) * generator.gamma(0.5, 2.0, size=items)
        lines = generator.poisson(4.0, size=len(when)) + 1
        moment = np.repeat(when, lines)
        quantity = generator.integers(1, 4, size=len(moment))
        parts.append(
            pd.DataFrame(
                {
                    "user_key": hashlib.sha256(str(person).encode()).hexdigest()[:32],
                    "item_id": generator.choice(items, size=len(moment), p=taste / taste.sum()),
                    "occurred_at": pd.Timestamp(START) + pd.to_timedelta((moment * 86_400).astype(int), unit="s"),
                    "quantity": quantity,
                    "amount": quantity * np.round(generator.gamma(2.0, 2.0, size=len(moment)), 2),
                    "discount": np.where(generator.random(len(moment)) < (0.1 + 0.3 * (person % 3 == 0)), 0.5, 0.0),
                    "basket": person * 1_000_000 + np.repeat(np.arange(len(when)), lines),
                    "store": generator.integers(0, 2 + 2 * (person % 2), size=len(moment)),
                    "coupon": (generator.random(len(moment)) < 0.03).astype(int),
                }
            )
        )
    lines_of_all = pd.concat(parts, ignore_index=True)
    lines_of_all["item_id"] = "item-" + lines_of_all["item_id"].astype(str).str.zfill(4)
    return lines_of_all


def _aisle(number: str) -> str:
    """One of ten, by the last digit of the item."""
    return number[-1] if number.isdigit() else "x"


def manifest(service: str, features: tuple[str, ...], *, as_of: datetime, rows: int, root: str) -> Manifest:
    """A manifest as the door would write, with made-up ledger values."""
    return Manifest(service, "test", ("train_ai_system",), features, as_of, 1, "00" * 32, rows, root)


@dataclass(frozen=True, slots=True)
class Shop:
    """The retrieval door over `lines`, in which everyone allows everything."""

    lines: pd.DataFrame

    def people(self, service: str, *, as_of: datetime) -> list[str]:
        """Everyone who bought something."""
        return sorted(self.lines.loc[self.lines["occurred_at"] <= as_of, "user_key"].unique())

    def interactions(
        self, service: str, *, as_of: datetime, since: datetime | None = None, until: datetime | None = None
    ) -> Interactions:
        """Lines in (since, until]."""
        when = self.lines["occurred_at"]
        kept = self.lines[(when <= (until or as_of)) & (when > (since or START - timedelta(days=9999)))]
        kept = kept.sort_values(["user_key", "occurred_at", "item_id"], kind="stable")
        table = pa.table(
            {
                "user_key": pa.array(kept["user_key"], pa.string()),
                "item_id": pa.array(kept["item_id"], pa.string()),
                "occurred_at": pa.array(kept["occurred_at"], pa.timestamp("us", tz="UTC")),
                "quantity": pa.array(kept["quantity"], pa.int64()),
                "amount": pa.array(kept["amount"], pa.float64()),
                "basket_id": pa.array(kept["basket"].astype(str), pa.string()),
                "category": pa.array("aisle " + (kept["item_id"].str[-4:].map(_aisle)), pa.string()),
            }
        )
        root = hashlib.sha256(pd.util.hash_pandas_object(kept, index=False).to_numpy().tobytes()).hexdigest()
        return Interactions(table, manifest(service, (), as_of=as_of, rows=len(table), root=root))

    def training_frame(self, labels: pd.DataFrame, *, service: str, as_of: datetime) -> TrainingFrame:
        """Features by one join of labels with every earlier line."""
        features = _SERVICES[service]
        columns = ", ".join(f"{sql} as {name}" for name, sql in _COLUMNS.items())
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            connection.register("labels", labels.assign(n=range(len(labels))))
            connection.register("lines", self.lines)
            found = connection.execute(
                f"select l.n, {columns} from labels l left join lines p on p.user_key = l.user_key "
                "and p.occurred_at <= l.as_of group by l.n, l.as_of order by l.n"
            ).df()
        found["basket_value_mean_90d"] = found["amount_sum_90d"] / found["basket_count_90d"].replace(0, np.nan)
        found["discount_share_90d"] = found["discount_sum_90d"] / found["amount_sum_90d"].replace(0, np.nan)
        found["amount_trend_28d_90d"] = found["amount_sum_28d"] / found["amount_sum_90d"].replace(0, np.nan)
        found["basket_trend_7d_28d"] = found["basket_count_7d"] / found["basket_count_28d"].replace(0, np.nan)
        data = pd.concat([labels.reset_index(drop=True), found[list(features)].astype(np.float64)], axis=1)
        data = data.sort_values(["user_key", "as_of"], ignore_index=True)
        root = hashlib.sha256(pd.util.hash_pandas_object(data, index=False).to_numpy().tobytes()).hexdigest()
        return TrainingFrame(data, features, manifest(service, features, as_of=as_of, rows=len(data), root=root))

    def catalogue(self) -> pa.Table:
        """Empty: nothing here needs names."""
        return pa.table({"item_id": pa.array([], pa.string())})
