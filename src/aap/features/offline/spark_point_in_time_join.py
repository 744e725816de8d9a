"""The point-in-time join on Spark, for a history of change points that one machine can't read: the same rows and values.

A person's change points and the moments asked about are put in one order, and each moment takes what came last before it:
one sort by person, however deep the history. What is joined comes back to this process, one row a row asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from aap.features.declarations import DAY_US, Entity
from aap.features.engines.spark import address, spark_session, spark_type
from aap.features.errors import EngineUnavailable
from aap.features.offline.point_in_time_join import Join
from aap.features.offline.store import OfflineValues, schema_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["spark_join"]

_JOIN = """
SELECT row, held.* FROM (
    SELECT row, asked, last(held, true) OVER (PARTITION BY k ORDER BY t, asked ROWS UNBOUNDED PRECEDING) AS held
    FROM (
        SELECT k, t, held, 0 AS asked, CAST(NULL AS BIGINT) AS row
        FROM point_in_time_known LEFT SEMI JOIN (SELECT DISTINCT k FROM point_in_time_asked) USING (k)
        UNION ALL
        SELECT k, t, NULL AS held, 1 AS asked, row FROM point_in_time_asked
    )
) WHERE asked = 1 AND held IS NOT NULL
"""


def spark_join(master: str) -> Join:
    """`point_in_time_join` by the Spark session at `master`, which is started at the first join.

    It raises `EngineUnavailable` where Spark can't be used, or can't read the files.
    """

    def join(
        values: OfflineValues, *, keys: pa.Array, moments: np.ndarray, features: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        session = spark_session(master)
        asked = pa.table({"row": np.arange(len(keys)), "k": keys.cast(pa.string()), "t": moments})
        try:
            found = _joined(session, values, asked, features)
        except Exception as error:  # Spark's own have no common ancestor but this
            reason = str(error).strip().partition("\n")[0]
            raise EngineUnavailable(
                f"Spark at {master} can't join the features of {values.view.name} ({reason}); set AAP_ENGINE=duckdb to "
                "join them here."
            ) from error
        return _in_place(values, found, moments=moments, features=features)

    return join


def _joined(session: SparkSession, values: OfflineValues, asked: pa.Table, features: Sequence[str]) -> pa.Table:
    """For each row asked about of which anything is known, its place `row`, `grant_start`, and the features as stored."""
    view, opened = values.view, cast(Any, session)
    columns = schema_of(view)
    declared = ", ".join(f"`{f.name}` {spark_type(f.type)}" for f in columns)
    files = [address(values.folder, piece.name) for piece in values.pieces]
    known = session.read.schema(declared).parquet(*files) if files else opened.createDataFrame([], declared)
    moments = {f.name for f in columns if pa.types.is_timestamp(f.type)}
    start = "unix_micros(grant_start)" if view.entity is Entity.USER else "0L"
    told = [f"unix_micros(`{f}`) AS `{f}`" if f in moments else f"`{f}`" for f in features]
    known.selectExpr(
        f"{view.key} AS k", "unix_micros(valid_from) AS t", f"struct({start} AS grant_start, {', '.join(told)}) AS held"
    ).createOrReplaceTempView("point_in_time_known")
    opened.createDataFrame(asked).createOrReplaceTempView("point_in_time_asked")
    return opened.sql(_JOIN).toArrow()


def _in_place(
    values: OfflineValues, found: pa.Table, *, moments: np.ndarray, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = found["row"].to_numpy()
    starts = np.full(len(moments), -1, np.int64)
    starts[rows] = found["grant_start"].to_numpy()
    joined = np.full((len(moments), len(features)), np.nan, order="F")
    since = {name for name, moment in zip(values.view.names, values.view.since, strict=True) if moment}
    for column, name in enumerate(features):
        held = found[name].cast(pa.float64(), safe=False).to_numpy()
        joined[rows, column] = (moments[rows] - held) / DAY_US if name in since else held
    return joined, starts >= 0, starts
