"""A small shop with half a year of purchases and people who chose differently, imported for real once and copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import features
from aap.config import Settings, load_settings
from aap.consent.service import open_desk
from aap.features import views
from aap.features.engines.base import Engine, duckdb_engine
from aap.features.engines.spark import spark_engine, spark_session, why_unavailable
from tests.unit.events.conftest import redis_url, running  # noqa: F401 - fixtures
from tests.unit.events.corner_shop import CornerShop
from tests.unit.features.store_room import AS_OF, StoreRoom


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:  # noqa: F811 - the fixture
    home = tmp_path_factory.mktemp("filled") / "home"
    # For no longer than it is filled: other files' tests, run by the same process, have a Redis of their own.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AAP_REDIS_URL", redis_url)
        StoreRoom.fill(load_settings(home), seed=5)
    return home


@pytest.fixture
def room(filled_home: Path, running: Settings, monkeypatch: pytest.MonkeyPatch) -> StoreRoom:  # noqa: F811 - the fixture
    """The shop, imported and built, its consent in force, and its clock at AS_OF."""
    shutil.copytree(filled_home, running.home, dirs_exist_ok=True)
    made = StoreRoom(running, CornerShop(running, running.home.parent / "shop"))
    monkeypatch.setattr(Settings, "now", lambda _: made.clock[0])
    open_desk(running).catch_up(now=AS_OF, everyone=True)
    return made


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def redeclare() -> Iterator[Callable[..., None]]:
    """Has the project declare something else: `redeclare(SERVICES=(...))`. What it really declares is back after the test."""
    derived = (
        *(views.declared_features, views.on_request_features, views.declared_services),
        *(views.all_views, views.computed_for, views.services, views.reading),
    )

    def forget() -> None:
        for cached in derived:
            cached.cache_clear()

    def put(**declared: object) -> None:
        for name, value in declared.items():
            patched.setattr(features, name, value)
        forget()

    with pytest.MonkeyPatch.context() as patched:
        yield put
    forget()


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
