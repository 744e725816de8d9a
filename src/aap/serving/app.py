"""The HTTP application: which paths there are, and how a call goes from the door to an answer or a refusal.

Nothing is served without an API key but /livez, /readyz and what a setting opens. A handler never blocks: what touches a
store or a model runs in a lane or a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from aap.security.api_keys import KeyInfo, Scope
from aap.security.rate_limit import Allowance
from aap.serving.context import Platform
from aap.serving.endpoint import Counted, Endpoint, Prediction, endpoints
from aap.serving.errors import NoSuchPage, Overloaded, ServingError, WrongMethod
from aap.serving.http.gateway import Door, over_the_limit
from aap.serving.http.operational_routes import PAGES
from aap.serving.http.prediction_handlers import asking, open_lanes
from aap.serving.http.refusals import refusal
from aap.serving.http.responses import Reply, json_reply
from aap.serving.observability import prometheus
from aap.serving.observability.tracing import CallTrace
from aap_client.responses import Answer

__all__ = ["build_app"]


def build_app(make_platform: Callable[[], Platform]) -> Starlette:
    """The ASGI application; the platform is made when the server starts it, and stopped with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        platform = make_platform()
        platform.start()
        app.state.platform, app.state.door = platform, Door(platform)
        app.state.lanes = lanes = open_lanes(declared, platform)
        yield
        for lane in lanes.values():
            await run_sync(lane.stop)
        await platform.impatient.aclose()
        await run_sync(platform.stop)

    declared = endpoints()
    routes = [Route(endpoint.path, _call(endpoint), methods=["POST"]) for endpoint in declared]
    refusals: dict[Any, Any] = {404: _not_found, 405: _wrong_method, ServingError: _refused, Exception: _refused}
    return Starlette(routes=[*routes, *PAGES], lifespan=lifespan, exception_handlers=refusals)


def _call(endpoint: Endpoint) -> Callable[[Request], Awaitable[Reply]]:
    """Let in, answer or refuse, count. A person's rights are not given up on for being slow."""
    name, scope, by = endpoint.name, endpoint.scope, endpoint.answered_by
    handler = asking(name) if isinstance(by, Prediction) else by

    async def run(request: Request) -> Reply:
        platform: Platform = request.app.state.platform
        with platform.traces.call(name, request.headers) as trace:
            return await answer(request, platform, trace)

    async def answer(request: Request, platform: Platform, trace: CallTrace) -> Reply:
        started, until = time.perf_counter(), asyncio.get_running_loop().time() + platform.settings.deadline_s
        door: Door = request.app.state.door
        told: Allowance | None = None
        counted: Sequence[Counted] = ()
        try:
            with door.inside() as place:
                key = door.key(request, scope)
                with trace.part("count the call"):
                    told = await door.allowance(key)
                if told is not None and not told.allowed:
                    raise over_the_limit(told)
                with trace.part("read the body"):
                    asked = await door.body(request, endpoint.takes, place, until=until)
                with trace.part("answer"):
                    async with asyncio.timeout_at(None if scope is Scope.PRIVACY else until):
                        body, counted = await handler(request)(asked, platform, key)
                reply = json_reply(body)
        except TimeoutError:
            reply = refusal(Overloaded("The answer took longer than a call may take: ask again in a moment."))
        except Exception as error:
            reply = refusal(error)
        if told is not None:
            reply.add(told.headers())
        for asked_of, people, answers in counted:
            prometheus.count_answers(asked_of, answers)
            _note_reads(platform, key, asked_of, people, answers)
        seconds = time.perf_counter() - started
        only = counted[0][2] if len(counted) == 1 else ()
        versions = platform.models.versions() if reply.status >= 500 else {}
        prometheus.count_call(name, status=reply.status, seconds=seconds, answers=only, versions=versions)
        trace.ended(reply.status, [a for _, _, answers in counted for a in answers])
        return reply

    return run


def _note_reads(
    platform: Platform, key: KeyInfo, name: str, people: Sequence[str], answers: Sequence[Answer[Any]]
) -> None:
    """One read of each person whose data an answer rests on; who is denied is answered from nothing about them."""
    read: dict[str, list[str]] = {}
    for user_id, answer in zip(people, answers, strict=True):
        if answer.consent.allowed:
            read.setdefault(answer.consent.purpose, []).append(user_id)
    for purpose, whom in read.items():
        what, at = f"read for {name}, {purpose}", platform.settings.now()
        platform.audit.note(what, by=key.id, outcome="answered", at=at, times=len(whom), about=whom)


async def _not_found(request: Request, _error: Exception) -> Reply:
    return _refuse_with(request, NoSuchPage("There is no such page: /docs describes the endpoints."))


async def _wrong_method(request: Request, _error: Exception) -> Reply:
    return _refuse_with(request, WrongMethod(f"{request.method} is not served here: /docs describes the endpoints."))


def _refuse_with(request: Request, why: Exception) -> Reply:
    """A caller without a key learns nothing of what there is."""
    try:
        request.app.state.door.key(request, None)
    except Exception as error:
        why = error
    reply = refusal(why)
    prometheus.count_call("other", status=reply.status, seconds=0.0)
    return reply


async def _refused(_request: Request, error: Exception) -> Reply:
    return refusal(error)
