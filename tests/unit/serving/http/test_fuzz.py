"""Requests made up from the OpenAPI document, sound and unsound: none may make the service fail.

Most of the ids that are made up become those of a few people who were set up, so that calls get past consent and as far as
the models; a test that reached fewer outcomes than there are fails too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any
from zlib import crc32

import httpx
import hypothesis
import pytest
import schemathesis

from aap.consent.policy import Status
from aap.features.views import service as declared
from aap.security.api_keys import Scope
from aap.serving.context import Platform
from aap.serving.http import openapi
from aap.serving.inference import deny_all
from aap_client.responses import Outcome
from tests.unit.serving.shop_window import FEATURES, SERVICES, Street, calling

_schema = schemathesis.openapi.from_dict(openapi.document())
_KNOWN = ("known", "new", "stale", "refuses")
_REACHED = {
    "/v1/recommendations": {Outcome.ANSWERED, Outcome.DENIED, Outcome.NOT_FOUND},
    **{f"/v1/{name}": set(Outcome) for name in ("churn", "segments", "anomalies")},
}


@_schema.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """`body` about people we know, where it names any; the same body always becomes the same."""
    if isinstance(body, list):
        return [map_body(_context, one) for one in body]
    if not isinstance(body, dict):
        return body
    body = {name: map_body(_context, value) for name, value in body.items()}
    if isinstance(ids := body.get("user_ids"), list) and ids:
        alone = len(ids) == 1 and crc32(repr(ids).encode()) % 4 == 0
        # What is made up changes with what else is imported, so that chance alone would not always reach everybody.
        body["user_ids"] = [_somebody(one, place) for place, one in enumerate(ids)] + [*([] if alone else _KNOWN)]
    if "user_id" in body:
        body["user_id"] = _somebody(body["user_id"], 0)
    return body


def _somebody(made_up: Any, place: int) -> Any:
    if not isinstance(made_up, str) or not made_up:
        return made_up
    who = (crc32(made_up.encode(errors="replace")) + place) % (len(_KNOWN) + 1)
    return _KNOWN[who] if who < len(_KNOWN) else made_up


@pytest.fixture
def people(street: Street, choose: Callable[..., None]) -> None:
    """One person for each outcome there is."""
    for name in _KNOWN:
        choose(name, *SERVICES.values(), status=Status.REFUSED if name == "refuses" else Status.GIVEN)
    for name in ("known", "stale", "refuses"):
        street.shelves.rows[street.key(name)], street.shelves.purchases[street.key(name)] = [80.0, 3.0], ["tea"]
    street.shelves.expired.add(street.key("stale"))


@pytest.fixture
def service(
    street: Street, keys: dict[Scope, str], people: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """A caller with every scope and no limit."""
    monkeypatch.setattr("aap.privacy.erasure.SETTLE_S", 0.0)
    # The shop window's shelves have other columns than the declared services.
    monkeypatch.setattr(deny_all, "service_called", lambda name: replace(declared(name), features=FEATURES))
    settings = street.settings.model_copy(update={"rate_limit": 0})
    platform = Platform(settings, open_features=lambda _: street.shelves, open_registry=lambda _: street.shop)
    platform.models.refresh()
    with calling(platform) as client:
        client.headers["X-API-Key"] = keys[Scope.ADMIN]
        yield client


@pytest.fixture
def reached() -> Iterator[dict[str, set[str]]]:
    """The outcomes that answers had, by path; in the end there must have been all that can be."""
    seen: dict[str, set[str]] = {}
    yield seen
    for path, outcomes in seen.items():
        assert outcomes >= _REACHED.get(path, set()), f"{path} was only ever answered {outcomes}"


@pytest.fixture
def turns() -> Iterator[int]:
    """The calls of a test, counted."""
    return count()


@pytest.mark.parametrize("operation", [found.ok() for found in _schema.get_all_operations()], ids=lambda o: o.label)
def test_no_request_makes_the_service_fail(
    operation: Any, service: httpx.Client, reached: dict[str, set[str]], turns: Iterator[int]
) -> None:
    made_up = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

    @hypothesis.settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        derandomize=True,
        database=None,
    )
    @hypothesis.given(case=hypothesis.strategies.one_of(*made_up))
    def ask(case: schemathesis.Case) -> None:
        if next(turns) % 2:  # else the signal would have everybody denied in every call
            case.headers.pop("Sec-GPC", None)
        response = case.call(base_url=str(service.base_url), headers={"X-API-Key": service.headers["X-API-Key"]})
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(response.json()) == {"error"}
        outcomes = reached.setdefault(case.path, set())
        if response.status_code == 200 and case.path in _REACHED:
            outcomes.update(answer["outcome"] for answer in response.json()["answers"])

    ask()
