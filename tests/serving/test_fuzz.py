"""Requests made up from the OpenAPI document, sound and unsound: none may make the service fail."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import hypothesis
import pytest
import schemathesis

from security.api_keys import Scope
from serving import openapi
from serving.platform import Platform
from tests.serving.shop_window import Street, calling

_schema = schemathesis.openapi.from_dict(openapi.document())


@pytest.fixture
def service(street: Street, keys: dict[Scope, str]) -> Iterator[httpx.Client]:
    """A caller with every scope and no limit."""
    settings = street.settings.model_copy(update={"rate_limit": 0})
    platform = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    platform.models.refresh()
    with calling(platform) as client:
        client.headers["X-API-Key"] = keys[Scope.ADMIN]
        yield client


@_schema.parametrize()
@hypothesis.settings(
    max_examples=20, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True, database=None
)
def test_no_request_makes_the_service_fail(case: schemathesis.Case, service: httpx.Client) -> None:
    response = case.call(base_url=str(service.base_url), headers={"X-API-Key": service.headers["X-API-Key"]})
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()) == {"error"}
