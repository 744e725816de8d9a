"""The pages beside the endpoints: whether the process lives and can answer, what it counts, and its description."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.routing import Route

from aap.security.api_keys import Scope
from aap.serving.context import Platform
from aap.serving.errors import NoKey, NoSuchPage
from aap.serving.http import openapi
from aap.serving.http.gateway import Door, over_the_limit
from aap.serving.http.health import readiness
from aap.serving.http.responses import Reply, json_reply
from aap.serving.observability import prometheus

__all__ = ["PAGES"]

_ONE_LOOK = asyncio.Semaphore(1)
"""The console reads every store: one at a time, so that looking at it can't slow the answers down."""


async def _livez(_request: Request) -> Reply:
    return json_reply({"alive": True})


async def _readyz(request: Request) -> Reply:
    found = await readiness(request.app.state.platform)
    if not _door(request).knows(request):
        found = found.in_brief()
    return json_reply(found, status=200 if found.ready else 503)


async def _metrics(request: Request) -> Reply:
    platform: Platform = request.app.state.platform
    if not platform.settings.open_metrics:
        _door(request).key(request, None)
    return Reply(await run_sync(prometheus.page), kind=prometheus.CONTENT_TYPE_LATEST)


Page = Callable[[Request], Awaitable[Reply]]


def _described(page: Page) -> Page:
    """A page that describes the endpoints: behind any key, which a browser asks for, unless a setting opens it."""

    async def shown(request: Request) -> Reply:
        platform: Platform = request.app.state.platform
        if not platform.settings.open_docs:
            try:
                _door(request).password(request, None)
            except NoKey:
                return _sign_in("Sign in with any name and an API key as the password, or set AAP_OPEN_DOCS.")
        return await page(request)

    return shown


def _sign_in(sentence: str) -> Reply:
    refusal = json_reply(openapi.Problem(sentence), status=401)
    refusal.add([("www-authenticate", 'Basic realm="AAP", charset="UTF-8"')])
    return refusal


async def _openapi(_request: Request) -> Reply:
    return json_reply(openapi.document())


async def _docs(_request: Request) -> Reply:
    return Reply(openapi.DOCS_HTML.encode(), kind="text/html; charset=utf-8", policy=openapi.DOCS_POLICY)


async def _docs_asset(request: Request) -> Reply:
    name: str = request.path_params["name"]
    if name == "start.js":
        return Reply(openapi.DOCS_JS.encode(), kind="text/javascript; charset=utf-8")
    content = await run_sync(openapi.asset, name)
    if content is None:
        raise NoSuchPage("There is no such page: /docs describes the endpoints.")
    return Reply(content, kind=openapi.ASSETS[name])


async def _console(request: Request) -> Reply:
    platform: Platform = request.app.state.platform
    door = _door(request)
    with door.inside():
        try:
            key = door.password(request, Scope.ADMIN)
        except NoKey:
            return _sign_in("Sign in with any name and a key of scope admin as the password.")
        told = await door.allowance(key)
        if told is not None and not told.allowed:
            raise over_the_limit(told)
        async with _ONE_LOOK:
            content = await run_sync(_console_page, platform)
    return content


def _console_page(platform: Platform) -> Reply:
    from aap.serving.dashboard.data import gather  # slow to import, so not before somebody looks
    from aap.serving.dashboard.page import POLICY, render

    found = gather(platform.settings, now=platform.settings.now(), counted=prometheus.page().decode())
    return Reply(render(found).encode(), kind="text/html; charset=utf-8", policy=POLICY)


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


PAGES = [
    Route("/livez", _livez, methods=["GET"]),
    Route("/readyz", _readyz, methods=["GET"]),
    Route("/metrics", _metrics, methods=["GET"]),
    Route("/openapi.json", _described(_openapi), methods=["GET"]),
    Route("/console", _console, methods=["GET"]),
    Route("/docs", _described(_docs), methods=["GET"]),
    Route("/docs/{name}", _described(_docs_asset), methods=["GET"]),
]
