"""The HTTP door: who may call, what they send, what they get back. Everything behind it is in `predictor`.

Nothing is served without an API key but /livez, /readyz and, where the service listens on the loopback alone, the page
that describes the endpoints. A handler never blocks: what touches a store or a model runs in a thread.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consent.ages import check_age
from consent.policy import Status
from consent.purposes import parse_purpose
from security.api_keys import KeyInfo, Scope
from serving import gpc, metrics, openapi
from serving.answers import Answer, ConsentRecorded, EventsCollected
from serving.errors import (
    BodyTooLarge,
    NoKey,
    NoSuchPage,
    ServingError,
    WrongMethod,
    WrongScope,
    status_and_sentence,
)
from serving.health import readiness
from serving.platform import Platform
from serving.predictor import Predictor
from serving.privacy_routes import privacy_calls
from serving.requests import (
    ChoiceRequest,
    EventsRequest,
    PredictionRequest,
    RecommendationRequest,
    check_content_type,
    read_body,
)

__all__ = ["build_app"]

_log = logging.getLogger("aap.serving")
_BYTES_A_USER = 1_600  # 256 characters, each at most six bytes when JSON escapes it, and what surrounds them

Handler = Callable[[Request, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Answer[Any]]]]]


def build_app(make_platform: Callable[[], Platform]) -> Starlette:
    """The ASGI application; the platform is made when the server starts it, and stopped with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        platform = make_platform()
        platform.start()
        app.state.platform = platform
        yield
        await run_sync(platform.stop)

    calls: tuple[tuple[str, Handler, Scope], ...] = (
        ("recommendations", _recommendations, Scope.PREDICT),
        ("churn", _ask("churn"), Scope.PREDICT),
        ("segments", _ask("segments"), Scope.PREDICT),
        ("anomalies", _ask("anomalies"), Scope.PREDICT),
        ("consent", _choose, Scope.CONSENT),
        ("events", _collect, Scope.COLLECT),
        *privacy_calls(_body),
    )
    routes = [Route(f"/v1/{n}", _call(n, handle, scope), methods=["POST"]) for n, handle, scope in calls]
    pages = ("/livez", _livez), ("/readyz", _readyz), ("/metrics", _metrics), ("/openapi.json", _openapi)
    routes += [Route(path, page, methods=["GET"]) for path, page in pages]
    routes += [Route("/docs", _docs, methods=["GET"]), Route("/docs/{name}", _docs_asset, methods=["GET"])]
    refusals: dict[Any, Any] = {404: _not_found, 405: _wrong_method, ServingError: _refused, Exception: _refused}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=refusals)


async def _recommendations(request: Request, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Answer[Any]]]:
    asked = await _body(request, platform, RecommendationRequest)

    def answer() -> list[Answer[Any]]:
        people = platform.pseudonyms.user_keys(asked.user_ids)
        return list(_predictor(request, platform).recommendations(people, n=asked.n, now=platform.settings.now()))

    answers = await run_sync(answer)
    return {"answers": answers}, answers


def _ask(method: str) -> Handler:
    async def handle(request: Request, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Answer[Any]]]:
        asked = await _body(request, platform, PredictionRequest)

        def answer() -> list[Answer[Any]]:
            people = platform.pseudonyms.user_keys(asked.user_ids)
            ask: Callable[..., list[Answer[Any]]] = getattr(_predictor(request, platform), method)
            return ask(people, now=platform.settings.now())

        answers = await run_sync(answer)
        return {"answers": answers}, answers

    return handle


def _predictor(request: Request, platform: Platform) -> Predictor:
    made = platform.stores().predictor
    return gpc.under_gpc(made) if gpc.is_sent(request.headers) else made


async def _choose(request: Request, platform: Platform, key: KeyInfo) -> tuple[Any, Sequence[Answer[Any]]]:
    asked = await _body(request, platform, ChoiceRequest)
    purpose = parse_purpose(asked.purpose)
    status = Status.GIVEN if asked.choice == "grant" else Status.WITHDRAWN
    if status.permits:
        gpc.refuse_grant(request.headers, purpose)
        check_age(purpose, age=asked.age, by_guardian=asked.by == "guardian")

    def record() -> int:
        now = platform.settings.now()
        return platform.stores().desk.record(
            platform.pseudonyms.user_key(asked.user_id),
            purpose,
            status,
            said_by=f"the {asked.by}",
            method=f"API key {key.name!r}",
            indicated_at=now,
            received_at=now,
            notice_version=asked.notice_version,
        )

    return ConsentRecorded(purpose, asked.choice, await run_sync(record)), ()


async def _collect(request: Request, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Answer[Any]]]:
    asked = await _body(request, platform, EventsRequest)

    def collect() -> EventsCollected:
        found = platform.stores().collector.collect(asked.events, now=platform.settings.now())
        return EventsCollected(
            found.accepted, found.duplicates, found.choices, dict(found.refused), dict(found.rejected)
        )

    return await run_sync(collect), ()


def _call(endpoint: str, handle: Handler, scope: Scope) -> Callable[[Request], Awaitable[Response]]:
    """Authenticate, answer or refuse, count."""

    async def run(request: Request) -> Response:
        started = time.perf_counter()
        answers: Sequence[Answer[Any]] = ()
        try:
            platform: Platform = request.app.state.platform
            body, answers = await handle(request, platform, _authenticated(request, platform, scope))
            response = _json(body)
            metrics.count_answers(endpoint, answers)
        except Exception as error:
            response = _refusal(error)
        seconds = time.perf_counter() - started
        metrics.count_call(endpoint, status=response.status_code, seconds=seconds, answers=answers)
        return response

    return run


def _authenticated(request: Request, platform: Platform, scope: Scope | None) -> KeyInfo:
    """The caller's key. Raises `NoKey`, or `WrongScope` when it is not for `scope`."""
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
    found = platform.keys.verify(given, now=platform.settings.now()) if given else None
    if found is None:
        what = "The API key is unknown, revoked or expired" if given else "The call has no API key"
        raise NoKey(f"{what}: send one in the header Authorization: Bearer, made with `aap keys create`.")
    if scope is not None and not found.allows(scope):
        raise WrongScope(f"The key {found.name!r} has no scope {scope.value!r}: use one that has.")
    return found


async def _body(request: Request, platform: Platform, kind: type[Any]) -> Any:
    check_content_type(request.headers.get("content-type"))
    most_users = platform.settings.max_users_per_call
    most_bytes = 4_096 + _BYTES_A_USER * most_users
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise BodyTooLarge(f"The body has more than {most_bytes} bytes: split the call.")
    return read_body(bytes(body), kind, most_users=most_users)


async def _livez(_request: Request) -> Response:
    return _json({"alive": True})


async def _readyz(request: Request) -> Response:
    found = await run_sync(readiness, request.app.state.platform)
    return _json(found, status=200 if found.ready else 503)


async def _metrics(request: Request) -> Response:
    platform: Platform = request.app.state.platform
    if not platform.settings.open_metrics:
        _authenticated(request, platform, None)
    return Response(await run_sync(metrics.page), media_type=metrics.CONTENT_TYPE_LATEST)


async def _openapi(request: Request) -> Response:
    _open_on_loopback(request)
    return _json(openapi.document())


async def _docs(request: Request) -> Response:
    _open_on_loopback(request)
    return Response(openapi.DOCS_HTML, media_type="text/html", headers={"Content-Security-Policy": openapi.DOCS_POLICY})


async def _docs_asset(request: Request) -> Response:
    _open_on_loopback(request)
    name: str = request.path_params["name"]
    if name == "start.js":
        return Response(openapi.DOCS_JS, media_type="text/javascript")
    content = await run_sync(openapi.asset, name)
    if content is None:
        raise NoSuchPage("There is no such page: /docs describes the endpoints.")
    return Response(content, media_type=openapi.ASSETS[name])


def _open_on_loopback(request: Request) -> None:
    """The description carries no data, so it is open where only this machine can ask for it."""
    platform: Platform = request.app.state.platform
    if not ipaddress.ip_address(platform.settings.host).is_loopback:
        _authenticated(request, platform, None)


async def _not_found(request: Request, _error: Exception) -> Response:
    return _refuse_with(request, NoSuchPage("There is no such page: /docs describes the endpoints."))


async def _wrong_method(request: Request, _error: Exception) -> Response:
    return _refuse_with(request, WrongMethod(f"{request.method} is not served here: /docs describes the endpoints."))


def _refuse_with(request: Request, refusal: Exception) -> Response:
    """A caller without a key learns nothing of what there is."""
    try:
        _authenticated(request, request.app.state.platform, None)
    except Exception as error:
        refusal = error
    response = _refusal(refusal)
    metrics.count_call("other", status=response.status_code, seconds=0.0)
    return response


async def _refused(_request: Request, error: Exception) -> Response:
    return _refusal(error)


def _refusal(error: Exception) -> Response:
    status, sentence = status_and_sentence(error)
    if status == 500:
        # Only where it happened: an exception's own text could repeat what the caller sent.
        _log.error("A call failed unforeseen, as %s at %s.", type(error).__name__, _place(error))
    response = _json(openapi.Problem(sentence), status=status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        response.headers["Retry-After"] = "2"
    return response


def _place(error: Exception) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])


def _json(body: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
