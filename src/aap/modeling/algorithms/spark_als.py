"""Item factors by Spark's own ALS, for a matrix of people × items that one machine can't factorize.

The same promise as `factors.factorize`: one vector an item, the same ones for one seed and the same rows. Spark's objective
is Hu et al. (2008) with confidence 1 + r, where r = log1p(count), and it weighs λ by the number of items a person bought;
λ is therefore divided by the mean number, so that one setting means about the same to both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from aap.features.engines.spark import spark_session
from aap.modeling.errors import BadParameters

__all__ = ["spark_item_factors"]


def spark_item_factors(
    counts: csr_matrix, *, factors: int, regularization: float, iterations: int, seed: int, master: str
) -> np.ndarray:
    """Vectors of the items, float32 `[n_items, factors]`; an item nobody bought has zeros.

    `counts` `[n_people, n_items]` holds log1p(count). Raises `EngineUnavailable` without Spark or Java, `BadParameters`
    for a Spark Connect address, which has no ALS.
    """
    if master.startswith("sc://"):
        raise BadParameters("Spark Connect has no ALS: give als the master's own address, spark://… or local[2].")
    session = spark_session(master)
    from pyspark.ml.recommendation import ALS

    cells = counts.tocoo()
    rows = pd.DataFrame({"person": cells.row, "item": cells.col, "rating": cells.data.astype(np.float32)})
    mean = max(1.0, counts.nnz / max(1, counts.shape[0]))
    als = ALS(
        rank=factors,
        maxIter=iterations,
        regParam=regularization / mean,
        implicitPrefs=True,
        alpha=1.0,
        userCol="person",
        itemCol="item",
        ratingCol="rating",
        seed=seed,
    )
    # One partition, in row order: Spark numbers what it draws by partition, and its sums follow the order of rows.
    given = session.createDataFrame(rows.sort_values(["person", "item"])).coalesce(1)
    fitted: Any = als.fit(given).itemFactors.orderBy("id").collect()
    found = np.zeros((counts.shape[1], factors), dtype=np.float32)
    for row in fitted:
        found[row["id"]] = row["features"]
    return found
