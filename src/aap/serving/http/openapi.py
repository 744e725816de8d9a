"""The OpenAPI document and the page that shows it, made from the very types the endpoints read and write.

The page is Swagger UI from the files BentoML brings along: it loads nothing from another host.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from aap.consent.purposes import Purpose
from aap.serving.endpoint import Endpoint, endpoints
from aap.serving.http.health import Readiness
from aap_client.responses import ConsentAnswer, ConsentRecorded, Problem

__all__ = ["ASSETS", "DOCS_HTML", "DOCS_JS", "DOCS_POLICY", "Problem", "asset", "document"]

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


_TOLD = {
    "RateLimit": {
        "description": "Calls left in this minute, and when all are there again.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "Calls a minute.", "schema": {"type": "string"}},
}
_GPC = {
    "name": "Sec-GPC",
    "in": "header",
    "description": "The Global Privacy Control that a browser sent: what it stops is denied to everybody in the call.",
    "schema": {"type": "string", "enum": ["1"]},
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
_READY = Readiness(True, models={"churn": "1"})
_NOT_READY = Readiness(False, missing={"model churn": "it has no champion; run `aap train` or `aap retrain`."})


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    declared = endpoints()
    kinds = [t for endpoint in declared for t in (endpoint.takes, endpoint.gives)] + [Problem, Readiness]
    schemas, components = _schemas(kinds)
    paths = {e.path: {"post": _post(e, schemas[2 * i], schemas[2 * i + 1])} for i, e in enumerate(declared)}
    ready = {
        "200": _json("Every endpoint can answer", schemas[-1], example=_READY),
        "503": _json("What is missing", schemas[-1], example=_NOT_READY),
    }
    health: dict[str, Any] = {
        "/livez": {
            "get": {
                "tags": ["Health"],
                "summary": "Does the process live?",
                "security": [],
                "responses": {"200": _json("Yes", {})},
            }
        },
        "/readyz": {
            "get": {
                "tags": ["Health"],
                "summary": "Can it answer, and if not, why?",
                "security": [],
                "responses": ready,
            }
        },
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


def _schemas(kinds: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The schema of each type, and the components they refer to.

    The types of the replies say a purpose as text, for the client knows of none; the document says which there are.
    """
    template = "#/components/schemas/{name}"
    schemas, found = msgspec.json.schema_components(kinds, ref_template=template)
    (purpose,), listed = msgspec.json.schema_components([Purpose], ref_template=template)
    components: dict[str, Any] = {}
    for name, schema in found.items():
        components[name] = schema
        if name in (ConsentAnswer.__name__, ConsentRecorded.__name__):
            schema["properties"]["purpose"] = purpose
            components.update(listed)
    return schemas, components


def asset(name: str) -> bytes | None:
    """One of `ASSETS`, or None where the installed BentoML has no such file."""
    found = importlib.util.find_spec("bentoml")
    if name not in ASSETS or found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "_internal" / "server" / "static_content" / name
    return path.read_bytes() if path.is_file() else None


def _post(endpoint: Endpoint, takes: dict[str, Any], gives: dict[str, Any]) -> dict[str, Any]:
    if endpoint.is_prediction:
        about = "One answer for each that was asked about, in order."
        gives = {"type": "object", "properties": {"answers": gives}, "required": ["answers"]}
    else:
        about = ""
    problem = {"$ref": "#/components/schemas/Problem"}
    return {
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "description": f"{endpoint.description} {about}".strip(),
        "parameters": [_GPC] if endpoint.hears_gpc else [],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": takes, "example": endpoint.example_request}},
        },
        "responses": {
            "200": {**_json("Answered", gives, example=endpoint.example_response), "headers": _TOLD},
            **{status: _json(meaning, problem) for status, meaning in _PROBLEMS.items()},
        },
    }


def _json(meaning: str, schema: dict[str, Any], *, example: Any = None) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": msgspec.to_builtins(example)}
    return {"description": meaning, "content": {"application/json": content}}


def _version() -> str:
    try:
        return version("aap")
    except PackageNotFoundError:
        return "0"
