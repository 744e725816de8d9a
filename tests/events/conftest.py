"""One Redis for all tests of this folder, emptied before each, and a home with its importer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from settings.config import Settings, load_settings
from storage import embedded, redis_server as server
from storage.layout import Layout
from tests.events.corner_shop import CornerShop


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    layout = Layout(tmp_path_factory.mktemp("redis-of-all") / "home")
    embedded.ensure_running(layout)
    state = embedded.read_state(layout)
    assert state is not None
    yield f"redis://:{state.password}@{embedded.HOST}:{state.port}/0"
    embedded.stop(layout)


@pytest.fixture
def running(home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty home with an empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    monkeypatch.setenv("AAP_REDIS_URL", redis_url)
    loaded = load_settings(home)
    server.ensure_running(loaded)
    return loaded


@pytest.fixture
def shop(running: Settings, tmp_path: Path) -> CornerShop:
    return CornerShop(running, tmp_path / "shop")
