"""The pages beside the endpoints: whether the process lives and can answer, what it counts, and its description."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.routing import Route

from serving import metrics, openapi
from serving.door import Door
from serving.errors import NoSuchPage
from serving.health import readiness
from serving.platform import Platform
from serving.reply import Reply, json_reply

__all__ = ["PAGES"]


async def _livez(_request: Request) -> Reply:
    return json_reply({"alive": True})


async def _readyz(request: Request) -> Reply:
    found = await run_sync(readiness, request.app.state.platform)
    return json_reply(found, status=200 if found.ready else 503)


async def _metrics(request: Request) -> Reply:
    platform: Platform = request.app.state.platform
    if not platform.settings.open_metrics:
        _door(request).key(request, None)
    return Reply(await run_sync(metrics.page), kind=metrics.CONTENT_TYPE_LATEST)


async def _openapi(request: Request) -> Reply:
    _door(request).open_on_loopback(request)
    return json_reply(openapi.document())


async def _docs(request: Request) -> Reply:
    _door(request).open_on_loopback(request)
    return Reply(openapi.DOCS_HTML.encode(), kind="text/html; charset=utf-8", policy=openapi.DOCS_POLICY)


async def _docs_asset(request: Request) -> Reply:
    _door(request).open_on_loopback(request)
    name: str = request.path_params["name"]
    if name == "start.js":
        return Reply(openapi.DOCS_JS.encode(), kind="text/javascript; charset=utf-8")
    content = await run_sync(openapi.asset, name)
    if content is None:
        raise NoSuchPage("There is no such page: /docs describes the endpoints.")
    return Reply(content, kind=openapi.ASSETS[name])


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


PAGES = [
    Route("/livez", _livez, methods=["GET"]),
    Route("/readyz", _readyz, methods=["GET"]),
    Route("/metrics", _metrics, methods=["GET"]),
    Route("/openapi.json", _openapi, methods=["GET"]),
    Route("/docs", _docs, methods=["GET"]),
    Route("/docs/{name}", _docs_asset, methods=["GET"]),
]
