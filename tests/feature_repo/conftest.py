"""A small shop with half a year of purchases and people who chose differently, imported for real."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from feature_repo.batch import Engine, duckdb_engine
from feature_repo.spark_engine import spark_engine, spark_session, why_unavailable
from settings.config import Settings
from tests.events.conftest import redis_url, running  # noqa: F401 - fixtures
from tests.feature_repo.store_room import StoreRoom


@pytest.fixture
def room(running: Settings, monkeypatch: pytest.MonkeyPatch) -> StoreRoom:  # noqa: F811 - the fixture
    """The shop, imported, built and with its clock at AS_OF."""
    made = StoreRoom.fill(running, seed=5)
    monkeypatch.setattr(Settings, "now", lambda _: made.clock[0])
    return made


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


# Read before any test takes the AAP_ variables away.
_SPARK_IS_REQUIRED = bool(os.environ.get("AAP_REQUIRE_SPARK"))


@pytest.fixture(scope="session")
def spark() -> Iterator[Engine]:
    """Spark on two cores, started once. Where it can't run the test is skipped, or fails under AAP_REQUIRE_SPARK=1."""
    if missing := why_unavailable("local[2]"):
        (pytest.fail if _SPARK_IS_REQUIRED else pytest.skip)(missing)
    session = spark_session("local[2]")
    yield spark_engine(session)
    session.stop()


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=pytest.mark.spark)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each batch engine in turn."""
    return duckdb_engine if request.param == "duckdb" else request.getfixturevalue("spark")
