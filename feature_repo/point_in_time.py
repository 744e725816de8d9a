"""The point-in-time join: for each row, the values that held at its moment. No row is lost, doubled or moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.views import View

__all__ = ["point_in_time_join"]


def point_in_time_join(
    view: View, file: Path, *, keys: pa.Array, moments: np.ndarray, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of `features` for each (key, moment), in the order given.

    `keys` are `[n]` entity keys, `moments` int64 `[n]` microseconds. Returns values float64 `[n, n_features]` (times since a
    moment in days, NaN for null or where nothing is known), `found` bool `[n]`, and `grant_start` int64 `[n]` in
    microseconds (-1 where not found; 0 for items).
    """
    since = {f.name for f, s in zip(view.numbers, view.since, strict=True) if s}
    picked = ", ".join(
        f"(r.t - epoch_us(v.{name})) / 86400000000.0 AS {name}" if name in since else f"v.{name}" for name in features
    )
    start = "v.grant_start" if "grant_start" in _columns(file) else "TIMESTAMPTZ 'epoch'"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = pa.table({"n": np.arange(len(keys)), "k": keys.cast(pa.string()), "t": pa.array(moments, pa.int64())})
        connection.register("label_rows", rows)
        found = connection.execute(
            f"SELECT v.{view.key} IS NOT NULL AS found, coalesce(epoch_us({start}), -1) AS grant_start, {picked} "
            f"FROM label_rows r ASOF LEFT JOIN read_parquet('{str(file).replace(chr(39), chr(39) * 2)}') v "
            f"ON r.k = v.{view.key} AND make_timestamp(r.t)::TIMESTAMPTZ >= v.valid_from ORDER BY r.n"
        ).to_arrow_table()
    values = np.empty((len(keys), len(features)))
    for i, name in enumerate(features):
        values[:, i] = found[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
    there = found["found"].to_numpy(zero_copy_only=False)
    starts = np.where(there, found["grant_start"].to_numpy(), -1)
    return values, there, starts


def _columns(file: Path) -> list[str]:
    return list(pq.read_schema(file).names)
