"""The HTTP application: which paths there are, and how a call goes from the door to an answer or a refusal.

Nothing is served without an API key but /livez, /readyz and what a setting opens. A handler never blocks: what touches a
store or a model runs in a lane or a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from security.api_keys import KeyInfo, Scope
from security.rate_limit import Allowance
from serving import gpc, metrics
from serving.answers import Answer
from serving.at_hand import NotQuick
from serving.door import Door, over_the_limit
from serving.errors import NoSuchPage, Overloaded, ServingError, TooManyWrongKeys, WrongMethod, status_and_sentence
from serving.intake import intake_calls
from serving.lanes import Lane
from serving.openapi import Problem
from serving.pages import PAGES
from serving.platform import Platform
from serving.predictor import Predictor
from serving.privacy_routes import privacy_calls
from serving.reply import Reply, json_reply
from serving.requests import (
    MixedRequest,
    RecommendationRequest,
    ScoreRequest,
    SimilarRequest,
)
from serving.tracing import CallTrace

__all__ = ["build_app"]

_log = logging.getLogger("aap.serving")

Counted = tuple[str, Sequence[str], Sequence[Answer[Any]]]
"""An endpoint's name and the answers to be counted under it."""
Handler = Callable[[Any, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Counted]]]]
ASKED = {
    "recommendations": RecommendationRequest,
    "churn": ScoreRequest,
    "segments": ScoreRequest,
    "anomalies": ScoreRequest,
    "similar-items": SimilarRequest,
}
_QUICK = ("churn", "segments", "anomalies")
"""Endpoints whose models answer about a person in a fraction of a millisecond."""


def build_app(make_platform: Callable[[], Platform]) -> Starlette:
    """The ASGI application; the platform is made when the server starts it, and stopped with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        platform = make_platform()
        platform.start()
        app.state.platform, app.state.door = platform, Door(platform)
        app.state.lanes = lanes = _lanes(platform)
        yield
        for lane in lanes.values():
            await run_sync(lane.stop)
        await platform.impatient.aclose()
        await run_sync(platform.stop)

    calls: list[tuple[str, Scope, type[Any], Callable[[Request], Handler]]] = [
        *((name, Scope.PREDICT, kind, _asking(name)) for name, kind in ASKED.items()),
        ("score", Scope.PREDICT, MixedRequest, _asking_several),
        *intake_calls(),
        *((name, scope, kind, lambda _, handle=handle: handle) for name, scope, kind, handle in privacy_calls()),
    ]
    routes = [
        Route(f"/v1/{name}", _call(name, scope, kind, handler), methods=["POST"])
        for name, scope, kind, handler in calls
    ]
    refusals: dict[Any, Any] = {404: _not_found, 405: _wrong_method, ServingError: _refused, Exception: _refused}
    return Starlette(routes=[*routes, *PAGES], lifespan=lifespan, exception_handlers=refusals)


@dataclass(frozen=True, slots=True)
class Question:
    """What calls that are answered together have in common."""

    asked: Any
    gpc: bool
    """Whether the call carries the Global Privacy Control."""


def _lanes(platform: Platform) -> dict[str, Lane[Any, Any]]:
    """One lane an endpoint, so that a slow model keeps only its own callers waiting."""

    def asked(predictor: Predictor, name: str, people: list[str], question: Question) -> Sequence[Any]:
        guarded = platform.consent.guard(predictor)
        ask = getattr(gpc.under_gpc(guarded) if question.gpc else guarded, name)
        found: list[Answer[Any]] = ask(people, asked=question.asked, now=platform.settings.now())
        return found

    def patiently(name: str) -> Callable[[list[str], Question], Sequence[Any]]:
        def answer(user_ids: list[str], question: Question) -> Sequence[Any]:
            return asked(platform.stores().predictor, name, platform.pseudonyms.user_keys(user_ids), question)

        return answer

    def quickly(name: str) -> Callable[[list[str], Question], Awaitable[Sequence[Any]]]:
        async def answer(user_ids: list[str], question: Question) -> Sequence[Any]:
            if platform.opened is None or question.asked.explain:
                raise NotQuick
            people = platform.pseudonyms.user_keys(user_ids)
            return await platform.opened.at_hand.ask(
                name,
                lambda predictor: asked(predictor, name, people, question),
                ahead=lambda predictor: predictor.reads_of_canary(name, people),
            )

        return answer

    def similar(item_ids: list[str], question: Question) -> Sequence[Any]:
        return platform.stores().predictor.similar(item_ids, n=question.asked)

    about_people = {
        name: Lane(name, patiently(name), quickly=quickly(name) if name in _QUICK else None)
        for name in ASKED
        if name != "similar-items"
    }
    return {**about_people, "similar-items": Lane("similar-items", similar)}


def _asking(name: str) -> Callable[[Request], Handler]:
    def bound(request: Request) -> Handler:
        lane: Lane[Any, Any] = request.app.state.lanes[name]

        async def handle(asked: Any, _platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Counted]]:
            answers = await lane.ask(asked.about, Question(asked.asked, gpc.is_sent(request.headers)))
            return {"answers": answers}, _counted([name], [asked.about], [answers])

        return handle

    return bound


def _asking_several(request: Request) -> Handler:
    lanes: dict[str, Lane[Any, Any]] = request.app.state.lanes

    async def handle(asked: MixedRequest, _platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Counted]]:
        names: list[str] = [part.__struct_config__.tag for part in asked.requests]  # type: ignore[misc]
        signal = gpc.is_sent(request.headers)
        asking = [
            lanes[name].ask(part.about, Question(part.asked, signal))
            for name, part in zip(names, asked.requests, strict=True)
        ]
        found = await asyncio.gather(*asking, return_exceptions=True)
        parts: list[dict[str, Any]] = []
        for name, answers in zip(names, found, strict=True):
            if isinstance(answers, Exception):
                status, sentence = _status_and_sentence(answers)
                parts.append({"endpoint": name, "status": status, "error": sentence})
            else:
                parts.append({"endpoint": name, "status": 200, "answers": answers})
        return {"responses": parts}, _counted(names, [part.about for part in asked.requests], found)

    return handle


def _counted(names: Sequence[str], about: Sequence[Sequence[str]], found: Sequence[Any]) -> list[Counted]:
    """The answers among what was found that are about people, and about whom."""
    return [
        (name, people, answers)
        for name, people, answers in zip(names, about, found, strict=True)
        if name != "similar-items" and not isinstance(answers, BaseException)
    ]


def _call(
    endpoint: str, scope: Scope, kind: type[Any], handler: Callable[[Request], Handler]
) -> Callable[[Request], Awaitable[Reply]]:
    """Let in, answer or refuse, count. A person's rights are not given up on for being slow."""

    async def run(request: Request) -> Reply:
        platform: Platform = request.app.state.platform
        with platform.traces.call(endpoint, request.headers) as trace:
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
                    asked = await door.body(request, kind, place, until=until)
                with trace.part("answer"):
                    async with asyncio.timeout_at(None if scope is Scope.PRIVACY else until):
                        body, counted = await handler(request)(asked, platform, key)
                reply = json_reply(body)
        except TimeoutError:
            reply = _refusal(Overloaded("The answer took longer than a call may take: ask again in a moment."))
        except Exception as error:
            reply = _refusal(error)
        if told is not None:
            reply.add(told.headers())
        for name, people, answers in counted:
            metrics.count_answers(name, answers)
            _note_reads(platform, key, name, people, answers)
        seconds = time.perf_counter() - started
        only = counted[0][2] if len(counted) == 1 else ()
        versions = platform.models.versions() if reply.status >= 500 else {}
        metrics.count_call(endpoint, status=reply.status, seconds=seconds, answers=only, versions=versions)
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


def _refuse_with(request: Request, refusal: Exception) -> Reply:
    """A caller without a key learns nothing of what there is."""
    try:
        request.app.state.door.key(request, None)
    except Exception as error:
        refusal = error
    reply = _refusal(refusal)
    metrics.count_call("other", status=reply.status, seconds=0.0)
    return reply


async def _refused(_request: Request, error: Exception) -> Reply:
    return _refusal(error)


def _refusal(error: Exception) -> Reply:
    status, sentence = _status_and_sentence(error)
    reply = json_reply(Problem(sentence), status=status)
    if status == 401:
        reply.add([("www-authenticate", "Bearer")])
    if isinstance(error, TooManyWrongKeys):
        reply.add([("retry-after", str(error.retry_s))])
    if status == 503:
        reply.add([("retry-after", "1" if isinstance(error, Overloaded) else "2")])
    return reply


def _status_and_sentence(error: Exception) -> tuple[int, str]:
    status, sentence = status_and_sentence(error)
    if status == 500:
        # Only where it happened: an exception's own text could repeat what the caller sent.
        _log.error("A call failed unforeseen, as %s at %s.", type(error).__name__, _place(error))
    return status, sentence


def _place(error: Exception) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])
