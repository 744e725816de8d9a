"""One Redis for all tests of this folder, emptied before each, and a home with its importer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from aap.config import Settings, load_settings
from aap.infra.paths import Layout
from aap.infra.redis import connection as server, embedded_server
from tests.unit.events.corner_shop import CornerShop


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    layout = Layout(tmp_path_factory.mktemp("redis-of-all") / "home")
    embedded_server.ensure_running(layout)
    state = embedded_server.read_state(layout)
    assert state is not None
    yield f"redis://:{state.password}@{embedded_server.HOST}:{state.port}/0"
    embedded_server.stop(layout)


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
