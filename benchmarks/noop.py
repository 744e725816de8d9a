"""The no-op that answers are measured against: bare under uvicorn, and mounted in BentoML as it comes.

A call to a mounted application passes BentoML's own layers (tracing, a timer), which our service has moved out of the way.
"""

from __future__ import annotations

from typing import Any

import bentoml
from fastapi import FastAPI

__all__ = ["Noop", "app"]

app = FastAPI()


@app.post("/noop")
async def noop(body: dict[str, Any]) -> dict[str, bool]:
    """Read JSON, answer JSON."""
    return {"ok": bool(body)}


@bentoml.asgi_app(app, path="/")
@bentoml.service(
    name="noop",
    workers=1,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Noop:
    """The same, mounted."""
