"""A small shop with half a year of purchases and people who chose differently, imported for real."""

from __future__ import annotations

import numpy as np
import pytest

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
