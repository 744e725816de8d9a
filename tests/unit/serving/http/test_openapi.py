"""The OpenAPI document: its questions are accepted, and its answers are of the types that endpoints give."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from aap.security.api_keys import Scope
from aap.serving.endpoint import Endpoint
from aap.serving.http.openapi import document
from aap_client.responses import Outcome
from serving.endpoints import ENDPOINTS

_DOCUMENT = document()


def _said(endpoint: Endpoint) -> tuple[Any, Any]:
    """The question and the answer that the document shows of one endpoint."""
    post = _DOCUMENT["paths"][endpoint.path]["post"]
    answered = post["responses"]["200"]["content"]["application/json"]["example"]
    return post["requestBody"]["content"]["application/json"]["example"], answered


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_the_answer_it_shows_is_of_the_type_that_the_endpoint_gives(endpoint: Endpoint) -> None:
    _, answered = _said(endpoint)
    if endpoint.is_prediction:
        assert set(answered) == {"answers"}
        answered = answered["answers"]
    again = msgspec.to_builtins(msgspec.convert(answered, endpoint.gives, strict=True))
    assert again == answered, "nothing in it is unknown to the type"


def test_the_questions_it_shows_are_answered_in_the_shape_that_it_shows(
    client: httpx.Client, keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aap.privacy.erasure.SETTLE_S", 0.0)
    client.headers["Authorization"] = f"Bearer {keys[Scope.ADMIN]}"
    for endpoint in ENDPOINTS:
        asked, answered = _said(endpoint)
        given = client.post(endpoint.path, json=asked)
        assert given.status_code == 200, (endpoint.path, given.text)
        assert set(answered) <= set(given.json()), endpoint.path
        if endpoint.is_prediction:
            named = asked.get("user_ids") or asked["item_ids"]
            assert len(answered["answers"]) == len(given.json()["answers"]) == len(named)
            msgspec.convert(given.json()["answers"], endpoint.gives)
        else:
            msgspec.convert(given.json(), endpoint.gives)


def test_a_denied_and_an_answered_person_are_shown() -> None:
    outcomes = {answer.get("outcome") for e in ENDPOINTS if e.is_prediction for answer in _said(e)[1]["answers"]}
    assert {Outcome.ANSWERED, Outcome.DENIED} <= outcomes


def test_what_is_asked_of_a_lane_about_people_hears_the_global_privacy_control() -> None:
    assert all(e.hears_gpc is e.is_about_people for e in ENDPOINTS if e.is_prediction)


@pytest.mark.parametrize(("status", "ready"), [("200", True), ("503", False)])
def test_what_readiness_says_is_shown_for_both_cases(status: str, ready: bool) -> None:
    said = _DOCUMENT["paths"]["/readyz"]["get"]["responses"][status]["content"]["application/json"]["example"]
    assert said["ready"] is ready
    assert bool(said["missing"]) is not ready
