"""The OpenAPI document and the page that shows it, made from the very types the endpoints read and write.

The page is Swagger UI from the files BentoML brings along: it loads nothing from another host.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from serving.answers import (
    AnomalyResult,
    Answer,
    ChurnResult,
    ConsentRecorded,
    EventsCollected,
    Item,
    SegmentResult,
    SimilarItems,
)
from serving.health import Readiness
from serving.privacy_requests import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest
from serving.requests import (
    ChoiceRequest,
    EventsRequest,
    MixedRequest,
    RecommendationRequest,
    ScoreRequest,
    SimilarRequest,
)

__all__ = ["ASSETS", "DOCS_HTML", "DOCS_JS", "DOCS_POLICY", "Mixed", "MixedPart", "Problem", "asset", "document"]

ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-light-32x32.png": "image/png",
}
DOCS_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>AAP: predictions with consent</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="docs/favicon-light-32x32.png"></head>
<body><div id="page"><p>The endpoints are described in <a href="openapi.json">openapi.json</a>.</p></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
)
DOCS_JS = (
    'SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null, '
    "presets: [SwaggerUIBundle.presets.apis]});\n"
)


class Problem(msgspec.Struct, frozen=True):
    """Why a call was refused, in one sentence."""

    error: str


class MixedPart(msgspec.Struct, frozen=True):
    """What one question of a mixed batch got: `answers`, or the `error` that its endpoint would have refused it with."""

    endpoint: str
    status: int
    answers: list[Any] | None = None
    error: str | None = None


class Mixed(msgspec.Struct, frozen=True):
    """One part a question, in their order."""

    responses: list[MixedPart]


@dataclass(frozen=True, slots=True)
class Page:
    """What the document says of one endpoint."""

    path: str
    summary: str
    takes: Any
    gives: Any
    example: dict[str, Any]
    about: str = ""
    group: str = "Predictions"


_PAGES = (
    Page(
        "/v1/recommendations",
        "What each person may buy next",
        RecommendationRequest,
        list[Answer[tuple[Item, ...]]],
        {
            "user_ids": ["1", "2"],
            "n": 5,
            "strategy": "discover",
            "filters": {"departments": ["GROCERY"], "exclude_items": ["1082185"]},
            "context": {"basket": ["995242"]},
        },
        "Their own items for those who allow `personalize.profiling` and `personalize.profiled`; for everyone else what is "
        "popular. Without `strategy` the experiment decides, and the answer says which variant it was.",
    ),
    Page(
        "/v1/similar-items",
        "Items like an item",
        SimilarRequest,
        list[SimilarItems],
        {"item_ids": ["1082185"], "n": 5},
        "By what the same people buy. Asks for nobody's data, so for nobody's consent.",
    ),
    Page(
        "/v1/churn",
        "How likely each person is to stop buying",
        ScoreRequest,
        list[Answer[ChurnResult]],
        {"user_ids": ["1"], "explain": True},
        "With `explain` the features that push each probability up, strongest first.",
    ),
    Page(
        "/v1/segments",
        "The group of customers each person is most like",
        ScoreRequest,
        list[Answer[SegmentResult]],
        {"user_ids": ["1"]},
    ),
    Page(
        "/v1/anomalies",
        "How unusual each person's activity is",
        ScoreRequest,
        list[Answer[AnomalyResult]],
        {"user_ids": ["1"], "explain": True},
        "With `explain` the features furthest from usual.",
    ),
    Page(
        "/v1/score",
        "Several questions in one call",
        MixedRequest,
        Mixed,
        {
            "requests": [
                {"endpoint": "churn", "user_ids": ["1", "2"]},
                {"endpoint": "recommendations", "user_ids": ["1"], "n": 3},
            ]
        },
        "Each is answered as its endpoint would; one that can't be answered doesn't keep the others from it.",
    ),
    Page(
        "/v1/consent",
        "Grant or withdraw one purpose for one person",
        ChoiceRequest,
        ConsentRecorded,
        {"user_id": "1", "purpose": "personalize.profiled", "choice": "withdraw"},
        "Needs a key with the scope `consent`. When it answers 200, every later answer obeys the choice.",
        group="Consent and events",
    ),
    Page(
        "/v1/consent/receipts",
        "A receipt for each choice of one person",
        PersonRequest,
        Receipts,
        {"user_id": "1"},
        "Needs a key with the scope `consent`. Each can be checked offline with the public key (ISO/IEC TS 27560:2023).",
        group="Consent and events",
    ),
    Page(
        "/v1/consent/signals",
        "Set or lift a person's Global Privacy Control",
        SignalRequest,
        SignalRecorded,
        {"user_id": "1", "signal": "gpc", "on": True},
        "Needs a key with the scope `consent`. While it is set, `marketing.*` and `third_party_sharing` are refused; a call "
        "with the header `Sec-GPC: 1` is answered so whatever is set.",
        group="Consent and events",
    ),
    Page(
        "/v1/privacy/exports",
        "Everything held of one person",
        PersonRequest,
        dict[str, Any],
        {"user_id": "1"},
        "Needs a key with the scope `privacy`. The same as `data.json` of `aap export`.",
        group="A person's rights",
    ),
    Page(
        "/v1/privacy/erasures",
        "Erase one person everywhere",
        ErasureRequest,
        dict[str, Any],
        {"user_id": "1", "confirm": "erase everything"},
        "Needs a key with the scope `privacy`. Takes some seconds; gives the signed certificate. Refused with 503 while an "
        "import or a retrain runs.",
        group="A person's rights",
    ),
    Page(
        "/v1/events",
        "Take in what happened",
        EventsRequest,
        EventsCollected,
        {
            "events": [
                {
                    "source": "web",
                    "id": "7f3a",
                    "type": "product_viewed",
                    "user_id": "1",
                    "occurred_at": "2018-01-01T12:00:00Z",
                    "properties": {"item_id": "1082185"},
                }
            ]
        },
        "Needs a key with the scope `collect`. What consent doesn't cover is counted and kept nowhere.",
        group="Consent and events",
    ),
)
_TOLD = {
    "RateLimit": {
        "description": "Calls left in this minute, and when all are there again.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "Calls a minute.", "schema": {"type": "string"}},
}
_PROBLEMS = {
    "400": "The body is not JSON",
    "408": "The body didn't arrive in time",
    "429": "The key's calls of this minute are used up",
    "401": "No valid API key",
    "403": "The key is not for this",
    "413": "The body is too large",
    "415": "The body is not said to be JSON",
    "422": "The fields can't be used",
    "503": "Redis or a model is not there (yet), or too many calls wait",
}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = [t for page in _PAGES for t in (page.takes, page.gives)] + [Problem, Readiness]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths = {page.path: {"post": _post(page, schemas[2 * i], schemas[2 * i + 1])} for i, page in enumerate(_PAGES)}
    ready = {"200": _json("Every endpoint can answer", schemas[-1]), "503": _json("What is missing", schemas[-1])}
    health: dict[str, Any] = {
        "/livez": {
            "get": {"summary": "Does the process live?", "security": [], "responses": {"200": _json("Yes", {})}}
        },
        "/readyz": {"get": {"summary": "Can it answer, and if not, why?", "security": [], "responses": ready}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AAP",
            "version": _version(),
            "description": "Predictions that carry their consent decision. Denied consent is an answer, not an error.",
        },
        "paths": {**paths, **health},
        "security": [{"bearer": []}, {"header": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def asset(name: str) -> bytes | None:
    """One of `ASSETS`, or None where the installed BentoML has no such file."""
    found = importlib.util.find_spec("bentoml")
    if name not in ASSETS or found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "_internal" / "server" / "static_content" / name
    return path.read_bytes() if path.is_file() else None


def _post(page: Page, takes: dict[str, Any], gives: dict[str, Any]) -> dict[str, Any]:
    if page.group == "Predictions" and page.gives is not Mixed:
        about = "One answer for each that was asked about, in order."
        gives = {"type": "object", "properties": {"answers": gives}, "required": ["answers"]}
    else:
        about = ""
    problem = {"$ref": "#/components/schemas/Problem"}
    return {
        "tags": [page.group],
        "summary": page.summary,
        "description": f"{page.about} {about}".strip(),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": takes, "example": page.example}},
        },
        "responses": {
            "200": {**_json("Answered", gives), "headers": _TOLD},
            **{status: _json(meaning, problem) for status, meaning in _PROBLEMS.items()},
        },
    }


def _json(meaning: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}


def _version() -> str:
    try:
        return version("aap")
    except PackageNotFoundError:
        return "0"
