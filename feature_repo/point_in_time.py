"""The point-in-time join: for each row, the values that held at its moment. No row is lost, doubled or moved."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from feature_repo.declare import Entity
from feature_repo.offline_values import OfflineValues

__all__ = ["point_in_time_join"]


def point_in_time_join(
    values: OfflineValues, *, keys: pa.Array, moments: np.ndarray, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of `features` for each (key, moment), in the order given.

    `keys` are `[n]` entity keys, `moments` int64 `[n]` microseconds. Returns values float64 `[n, n_features]` (times since a
    moment in days, NaN for null or where nothing is known), `found` bool `[n]`, and `grant_start` int64 `[n]` in
    microseconds (-1 where not found; 0 for items).
    """
    view = values.view
    since = {f.name for f, s in zip(view.numbers, view.since, strict=True) if s}
    picked = ", ".join(
        f"(r.t - epoch_us(v.{name})) / 86400000000.0 AS {name}" if name in since else f"v.{name}" for name in features
    )
    start = "v.grant_start" if view.entity is Entity.USER else "TIMESTAMPTZ 'epoch'"
    with duckdb.connect() as connection, values.reading():
        connection.execute("SET TimeZone = 'UTC'")
        # DuckDB can't tell how long an Arrow table is, takes it for short, and would compare each label with every row.
        connection.execute("SET asof_loop_join_threshold = 0")
        rows = pa.table({"n": np.arange(len(keys)), "k": keys.cast(pa.string()), "t": pa.array(moments, pa.int64())})
        connection.register("label_rows", rows)
        found = connection.execute(
            f"SELECT r.n, v.{view.key} IS NOT NULL AS found, coalesce(epoch_us({start}), -1) AS grant_start, {picked} "
            f"FROM label_rows r ASOF LEFT JOIN {values.sql(on=connection)} v "
            f"ON r.k = v.{view.key} AND make_timestamp(r.t)::TIMESTAMPTZ >= v.valid_from"
        ).to_arrow_table()
    # Putting rows in their places is quicker here than sorting them there.
    places = found["n"].to_numpy()
    joined = np.empty((len(keys), len(features)), order="F")
    for i, name in enumerate(features):
        joined[places, i] = found[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
    there = np.empty(len(keys), dtype=bool)
    there[places] = found["found"].to_numpy()
    starts = np.full(len(keys), -1, dtype=np.int64)
    starts[places] = found["grant_start"].to_numpy()
    starts[~there] = -1
    return joined, there, starts
