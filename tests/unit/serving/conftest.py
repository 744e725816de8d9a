"""A home with a real Redis, a platform on it, and HTTP clients with keys for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from aap.config import Settings
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.infra.paths import Layout
from aap.infra.redis.connection import stop
from aap.infra.redis.embedded_server import HOST, ensure_running as ensure_server
from aap.security.api_keys import ApiKeys, Scope
from aap.serving.context import Platform
from tests.unit.serving.shop_window import Street, calling
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not taken for a Redis that hangs. A test of one that does sets limits of its own."""
    monkeypatch.setattr("aap.infra.redis.connection._IMPATIENT_S", PATIENCE_S)
    monkeypatch.setattr("aap.security.rate_limit._ASKED_S", PATIENCE_S)
    monkeypatch.setattr("aap.serving.http.health._ASKED_S", PATIENCE_S)
    monkeypatch.setattr("aap.serving.inference.async_predictor._LONG_S", PATIENCE_S)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one server for all tests that leave it running."""
    settings = Settings(home=tmp_path_factory.mktemp("redis"))
    state = ensure_server(Layout(settings.home))
    yield f"redis://:{state.password}@{HOST}:{state.port}/0"
    stop(settings)


@pytest.fixture
def own_redis() -> None:
    """Asked for by a test that stops its Redis."""


@pytest.fixture
def street(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Street]:
    url = None if "own_redis" in request.fixturenames else request.getfixturevalue("shared_redis")
    made = Street.open(tmp_path / "home", redis_url=url, max_users_per_call=50)
    yield made
    made.client.close()
    stop(made.settings)


@pytest.fixture
def choose(street: Street) -> Callable[..., None]:
    """Record a choice through the real consent desk, an hour ago unless said otherwise."""

    def say(user_id: str, *purposes: Purpose, status: Status = Status.GIVEN, at: datetime | None = None) -> None:
        now = street.settings.now()
        for purpose in purposes:
            open_desk(street.settings).record(
                street.key(user_id),
                purpose,
                status,
                said_by="the person",
                method="test",
                indicated_at=at or now - timedelta(hours=1),
                received_at=now,
            )

    return say


@pytest.fixture
def platform(street: Street) -> Iterator[Platform]:
    """A platform with its models loaded."""
    made = Platform(street.settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    made.models.refresh()
    yield made
    made.stop()


@pytest.fixture
def keys(street: Street) -> dict[Scope, str]:
    store = ApiKeys(Layout(street.settings.home).api_keys)
    return {scope: store.create(scope.value, scopes=[scope], now=street.settings.now()) for scope in Scope}


@pytest.fixture
def client(platform: Platform, keys: dict[Scope, str]) -> Iterator[httpx.Client]:
    """A caller with a key for predictions."""
    with calling(platform) as made:
        made.headers["Authorization"] = f"Bearer {keys[Scope.PREDICT]}"
        yield made


@pytest.fixture
def serve(street: Street, keys: dict[Scope, str]) -> Callable[..., Any]:
    """The service under other settings, and a client of it."""

    @contextmanager
    def run(**settings: Any) -> Iterator[httpx.Client]:
        changed = street.settings.model_copy(update=settings)
        platform = Platform(changed, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
        platform.models.refresh()
        with calling(platform) as client:
            client.headers["Authorization"] = f"Bearer {keys[Scope.PREDICT]}"
            yield client

    return run
