"""The no-op that answers are measured against: bare under uvicorn, mounted in BentoML as it comes, and as our service is.

A call to a mounted application passes BentoML's own layers (tracing, a timer), which our service has moved out of the way.
"""

from __future__ import annotations

from typing import Any

import bentoml
from fastapi import FastAPI

from aap.serving.http.bentoml_bypass import Straight

__all__ = ["Noop", "StraightNoop", "app"]

_ALONE: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": 60},
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}

app = FastAPI()


@app.post("/noop")
async def noop(body: dict[str, Any]) -> dict[str, bool]:
    """Read JSON, answer JSON."""
    return {"ok": bool(body)}


@bentoml.asgi_app(app, path="/")
@bentoml.service(name="noop", **_ALONE)
class Noop:
    """The same, mounted."""


@bentoml.asgi_app(app, path="/")
@bentoml.service(name="straight_noop", **_ALONE)
class StraightNoop:
    """The same, mounted, and reached as `serving.service` reaches its application."""


StraightNoop.add_asgi_middleware(Straight, application=app)  # type: ignore[attr-defined]
