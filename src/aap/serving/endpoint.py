"""An endpoint: everything that one path below /v1 says of itself, in one place.

The project declares its endpoints in `serving.endpoints`; routes, lanes and the OpenAPI document follow from them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from aap.consent.purposes import Purpose
from aap.project.loader import project_module
from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.inference.worker_pool import BackRoom
from aap_client.requests import PredictionRequest
from aap_client.responses import Answer, ConsentAnswer, ModelUsed, Outcome, R

__all__ = [
    "Counted",
    "Endpoint",
    "Handler",
    "MakeHandler",
    "Prediction",
    "endpoints",
    "example_answer",
    "example_denial",
    "in_worker_pool",
]

Counted = tuple[str, Sequence[str], Sequence[Answer[Any]]]
"""An endpoint's name, whom was asked about, and the answers to be counted under it."""
Handler = Callable[[Any, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Counted]]]]
"""From what the endpoint takes, the platform and the caller to the body of the reply."""
MakeHandler = Callable[[Request], Handler]


@dataclass(frozen=True, slots=True)
class Prediction:
    """How an endpoint asks the predictor: in a lane of its own, where calls that wait are answered together."""

    method: str
    """The method of `aap.serving.inference.predictor.Predictor` that answers."""
    quick: bool = False
    """Whether its model answers about a person in a fraction of a millisecond, so that the event loop may ask it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What one path below /v1 takes and gives, who may call it, how it is answered, and its part of the document."""

    name: str
    """Its path below /v1."""
    scope: Scope
    takes: type[Any]
    gives: Any
    """Of a prediction, what the `answers` of the reply are."""
    answered_by: Prediction | MakeHandler
    summary: str
    description: str = ""
    group: str
    hears_gpc: bool = False
    """Whether a call that carries the Global Privacy Control is answered otherwise."""
    example_request: Mapping[str, Any]
    example_response: Any
    """Made of the very types that the endpoint gives, so that it can't show a field that isn't there."""

    @property
    def path(self) -> str:
        """Where it is called."""
        return f"/v1/{self.name}"

    @property
    def is_prediction(self) -> bool:
        """Whether the predictor answers it: then what it gives comes as the `answers` of an object."""
        return isinstance(self.answered_by, Prediction)

    @property
    def is_about_people(self) -> bool:
        """Whether it asks about people, for whose consent it then asks too."""
        return issubclass(self.takes, PredictionRequest)


def endpoints() -> tuple[Endpoint, ...]:
    """The endpoints of the project, in the order in which the document shows them."""
    declared: tuple[Endpoint, ...] = project_module("serving.endpoints").ENDPOINTS
    return declared


def in_worker_pool(
    pool: Callable[[Platform], BackRoom], answer: Callable[[Platform, Any, KeyInfo], Any]
) -> MakeHandler:
    """What makes the handler of an endpoint whose `answer` waits for stores: it runs in a thread of `pool`."""

    async def handle(asked: Any, platform: Platform, key: KeyInfo) -> tuple[Any, Sequence[Counted]]:
        return await pool(platform).run(partial(answer, platform, asked, key)), ()

    return lambda _: handle


def example_answer(model: str, purpose: Purpose, result: R, *, reason: str = "granted") -> Answer[R]:
    """An answer to show that rests on what we know of the person."""
    consent = ConsentAnswer(True, purpose, reason)
    return Answer("9857922ada543e5990e86923e2e49a98", ModelUsed(model, "1"), None, consent, Outcome.ANSWERED, result)


def example_denial(model: str, purpose: Purpose, reason: str, result: R | None) -> Answer[R]:
    """An answer to show that rests on nothing about the person."""
    consent = ConsentAnswer(False, purpose, reason)
    return Answer("607baaee3cc8c67844bbca9017c64171", ModelUsed(model, "1"), None, consent, Outcome.DENIED, result)
