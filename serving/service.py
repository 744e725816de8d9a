"""The BentoML service: one process that serves the application of `aap.serving.app`.

BentoML gives the server, its workers and a graceful end. Its own pages (/metrics, /schema.json, /) know nothing of API
keys, so every HTTP call is handed straight to our application (`aap.serving.http.bentoml_bypass`) and they can't be reached.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable
from typing import Any

import bentoml
import uvicorn.config

from aap.config import load_settings
from aap.infra.logging import line_formatter
from aap.serving.app import build_app
from aap.serving.context import Platform
from aap.serving.http.bentoml_bypass import Straight

__all__ = ["AAP", "application"]

_log = logging.getLogger("aap.serving")

_TURN_S = 0.0005
"""How long a thread keeps waiting another that has an answer to give: Python's own 5 ms are as long as several answers."""


def _open_platform() -> Platform:
    """The platform of this worker. When it can't be made the whole server ends: a new worker would fare no better."""
    try:
        settings = load_settings()
        _configure_logs(as_json=settings.log_json)
        sys.setswitchinterval(_TURN_S)
        return Platform(settings, complete=_set_aside_what_stays)
    except Exception as error:
        _log.error("The service can't start: %s", error)
        if os.getppid() != 1:
            os.kill(os.getppid(), signal.SIGTERM)
        raise


def _set_aside_what_stays() -> None:
    """Spare the collector what libraries and models hold for good: looking through it all stops every call for 0.5 s."""
    gc.collect()
    gc.freeze()


def _configure_logs(*, as_json: bool) -> None:
    """Our own log lines go to standard error whatever BentoML does with its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(line_formatter(as_json=as_json))
    ours = logging.getLogger("aap")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


application = build_app(_open_platform)


def _tls_1_3_only(make_context: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
    """Neither BentoML nor uvicorn has a setting for the oldest protocol a client may speak."""

    def make(*args: Any, **options: Any) -> ssl.SSLContext:
        context = make_context(*args, **options)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    return make


uvicorn.config.create_ssl_context = _tls_1_3_only(uvicorn.config.create_ssl_context)
# BentoML lets uvicorn choose how to speak HTTP; this is what it chooses.
uvicorn.config.HTTP_PROTOCOLS["auto"] = "aap.serving.http.connections:Connection"


@bentoml.asgi_app(application, path="/")
@bentoml.service(
    name="aap",
    workers=load_settings().workers,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class AAP:
    """Predictions that carry their consent decision."""


AAP.add_asgi_middleware(Straight, application=application)  # type: ignore[attr-defined]
