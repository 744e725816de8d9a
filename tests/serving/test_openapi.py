"""The OpenAPI document: its questions are accepted, and its answers are of the types that endpoints give."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from security.api_keys import Scope
from serving.answers import Outcome
from serving.openapi import document
from serving.openapi_pages import PAGES, Page

_DOCUMENT = document()


def _said(page: Page) -> tuple[Any, Any]:
    """The question and the answer that the document shows of one endpoint."""
    post = _DOCUMENT["paths"][page.path]["post"]
    answered = post["responses"]["200"]["content"]["application/json"]["example"]
    return post["requestBody"]["content"]["application/json"]["example"], answered


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_the_answer_it_shows_is_of_the_type_that_the_endpoint_gives(page: Page) -> None:
    _, answered = _said(page)
    if page.wrapped:
        assert set(answered) == {"answers"}
        answered = answered["answers"]
    again = msgspec.to_builtins(msgspec.convert(answered, page.gives, strict=True))
    assert again == answered, "nothing in it is unknown to the type"


def test_the_questions_it_shows_are_answered_in_the_shape_that_it_shows(
    client: httpx.Client, keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privacy.erase.SETTLE_S", 0.0)
    client.headers["Authorization"] = f"Bearer {keys[Scope.ADMIN]}"
    for page in PAGES:
        asked, answered = _said(page)
        given = client.post(page.path, json=asked)
        assert given.status_code == 200, (page.path, given.text)
        assert set(answered) <= set(given.json()), page.path
        if page.wrapped:
            named = asked.get("user_ids") or asked["item_ids"]
            assert len(answered["answers"]) == len(given.json()["answers"]) == len(named)
            msgspec.convert(given.json()["answers"], page.gives)
        else:
            msgspec.convert(given.json(), page.gives)


def test_a_denied_and_an_answered_person_are_shown() -> None:
    outcomes = {answer.get("outcome") for page in PAGES if page.wrapped for answer in _said(page)[1]["answers"]}
    assert {Outcome.ANSWERED, Outcome.DENIED} <= outcomes


@pytest.mark.parametrize(("status", "ready"), [("200", True), ("503", False)])
def test_what_readiness_says_is_shown_for_both_cases(status: str, ready: bool) -> None:
    said = _DOCUMENT["paths"]["/readyz"]["get"]["responses"][status]["content"]["application/json"]["example"]
    assert said["ready"] is ready
    assert bool(said["missing"]) is not ready
