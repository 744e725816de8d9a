"""How prediction endpoints are answered: a lane each, a call to one of them, and a mixed call to several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from aap.serving.context import Platform
from aap.serving.endpoint import Counted, Endpoint, Handler, MakeHandler, Prediction
from aap.serving.http import gpc
from aap.serving.http.refusals import logged_status_and_sentence
from aap.serving.inference.async_predictor import NotQuick
from aap.serving.inference.micro_batching import Lane
from aap.serving.inference.predictor import Predictor
from aap_client.requests import MixedRequest, PredictionRequest
from aap_client.responses import Answer

__all__ = ["Question", "asking", "asking_several", "open_lanes"]


@dataclass(frozen=True, slots=True)
class Question:
    """What calls that are answered together have in common."""

    asked: Any
    gpc: bool
    """Whether the call carries the Global Privacy Control."""


def open_lanes(declared: Iterable[Endpoint], platform: Platform) -> dict[str, Lane[Any, Any]]:
    """One lane a prediction endpoint, so that a slow model keeps only its own callers waiting."""

    def asked(predictor: Predictor, method: str, people: list[str], question: Question) -> Sequence[Any]:
        guarded = platform.consent.guard(predictor)
        ask = getattr(gpc.under_gpc(guarded) if question.gpc else guarded, method)
        found: list[Answer[Any]] = ask(people, asked=question.asked, now=platform.settings.now())
        return found

    def patiently(method: str) -> Callable[[list[str], Question], Sequence[Any]]:
        def answer(user_ids: list[str], question: Question) -> Sequence[Any]:
            return asked(platform.stores().predictor, method, platform.pseudonyms.user_keys(user_ids), question)

        return answer

    def quickly(name: str, method: str) -> Callable[[list[str], Question], Awaitable[Sequence[Any]]]:
        async def answer(user_ids: list[str], question: Question) -> Sequence[Any]:
            if platform.opened is None or question.asked.explain:
                raise NotQuick
            people = platform.pseudonyms.user_keys(user_ids)
            return await platform.opened.at_hand.ask(
                name,
                lambda predictor: asked(predictor, method, people, question),
                ahead=lambda predictor: predictor.reads_of_canary(name, people),
            )

        return answer

    def of_items(method: str) -> Callable[[list[str], Question], Sequence[Any]]:
        def answer(item_ids: list[str], question: Question) -> Sequence[Any]:
            found: Sequence[Any] = getattr(platform.stores().predictor, method)(item_ids, n=question.asked)
            return found

        return answer

    lanes: dict[str, Lane[Any, Any]] = {}
    for endpoint in declared:
        name, by = endpoint.name, endpoint.answered_by
        if not isinstance(by, Prediction):
            continue
        if endpoint.is_about_people:
            lanes[name] = Lane(name, patiently(by.method), quickly=quickly(name, by.method) if by.quick else None)
        else:
            lanes[name] = Lane(name, of_items(by.method))
    return lanes


def asking(name: str) -> MakeHandler:
    """What makes the handler of the prediction endpoint `name`."""

    def bound(request: Request) -> Handler:
        lane: Lane[Any, Any] = request.app.state.lanes[name]

        async def handle(asked: Any, _platform: Platform, _key: Any) -> tuple[Any, Sequence[Counted]]:
            answers = await lane.ask(asked.about, Question(asked.asked, gpc.is_sent(request.headers)))
            return {"answers": answers}, _counted([name], [asked], [answers])

        return handle

    return bound


def asking_several(request: Request) -> Handler:
    """The handler of a mixed call: each part is answered in its endpoint's lane, or refused, by itself."""
    lanes: dict[str, Lane[Any, Any]] = request.app.state.lanes

    async def handle(asked: MixedRequest, _platform: Platform, _key: Any) -> tuple[Any, Sequence[Counted]]:
        names: list[str] = [part.__struct_config__.tag for part in asked.requests]  # type: ignore[misc]
        signal = gpc.is_sent(request.headers)
        waiting = [
            lanes[name].ask(part.about, Question(part.asked, signal))
            for name, part in zip(names, asked.requests, strict=True)
        ]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        parts: list[dict[str, Any]] = []
        for name, answers in zip(names, found, strict=True):
            if isinstance(answers, Exception):
                status, sentence = logged_status_and_sentence(answers)
                parts.append({"endpoint": name, "status": status, "error": sentence})
            else:
                parts.append({"endpoint": name, "status": 200, "answers": answers})
        return {"responses": parts}, _counted(names, asked.requests, found)

    return handle


def _counted(names: Sequence[str], parts: Sequence[Any], found: Sequence[Any]) -> list[Counted]:
    """The answers among what was found that are about people, and about whom."""
    return [
        (name, part.user_ids, answers)
        for name, part, answers in zip(names, parts, found, strict=True)
        if isinstance(part, PredictionRequest) and not isinstance(answers, BaseException)
    ]
