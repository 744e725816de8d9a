"""The batch engines by name: what `AAP_ENGINE` and `--engine` choose from."""

from __future__ import annotations

from aap.config import Settings
from aap.features.engines.base import Engine, duckdb_engine
from aap.features.engines.spark import spark_engine, spark_session
from aap.features.errors import EngineUnavailable

__all__ = ["BATCH_ENGINES", "batch_engine"]

BATCH_ENGINES = ("duckdb", "spark")


def batch_engine(settings: Settings, *, name: str = "") -> Engine:
    """The engine called `name`, by default the one these settings name; raises `EngineUnavailable`."""
    chosen = name or settings.engine
    if chosen == "duckdb":
        return duckdb_engine
    if chosen == "spark":
        return spark_engine(spark_session(settings.spark_master))
    raise EngineUnavailable(f"{chosen!r} is not a batch engine; choose one of: {', '.join(BATCH_ENGINES)}.")
