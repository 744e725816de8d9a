"""The intake: the endpoints that something is told to, a choice of a person (scope `consent`) or events (scope `collect`).

They are handed to `serving.app`, which authenticates, answers and counts for them as for every other endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request

from consent.ages import check_age
from consent.policy import Status
from consent.purposes import parse_purpose
from security.api_keys import KeyInfo, Scope
from serving import gpc
from serving.answers import ConsentRecorded, EventsCollected
from serving.platform import Platform
from serving.requests import ChoiceRequest, EventsRequest

__all__ = ["intake_calls"]

Handler = Callable[[Any, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Any]]]]


def intake_calls() -> tuple[tuple[str, Scope, type[Any], Callable[[Request], Handler]], ...]:
    """Path below /v1, scope, what it takes, and what makes the handler of a request."""
    return (
        ("consent", Scope.CONSENT, ChoiceRequest, _choosing),
        ("events", Scope.COLLECT, EventsRequest, lambda _: _collect),
    )


def _choosing(request: Request) -> Handler:
    return partial(_choose, gpc_sent=gpc.is_sent(request.headers))


async def _choose(
    asked: ChoiceRequest, platform: Platform, key: KeyInfo, *, gpc_sent: bool
) -> tuple[Any, Sequence[Any]]:
    purpose = parse_purpose(asked.purpose)
    status = Status.GIVEN if asked.choice == "grant" else Status.WITHDRAWN
    if status.permits:
        gpc.refuse_grant(purpose, sent=gpc_sent)
        check_age(purpose, age=asked.age, by_guardian=asked.by == "guardian")

    def record() -> int:
        now, desk = platform.settings.now(), platform.stores().desk
        platform.consent.require()
        position = desk.record(
            platform.pseudonyms.user_key(asked.user_id),
            purpose,
            status,
            said_by=f"the {asked.by}",
            method=f"API key {key.name!r}",
            indicated_at=now,
            received_at=now,
            notice_version=asked.notice_version,
        )
        note = platform.audit.note
        note(f"{asked.choice} {purpose}", by=key.id, outcome="done", at=now, about=[asked.user_id])
        return position

    return ConsentRecorded(purpose, asked.choice, await platform.choices.run(record)), ()


async def _collect(asked: EventsRequest, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Any]]:
    def collect() -> EventsCollected:
        collector = platform.stores().collector
        platform.consent.require()
        found = collector.collect(asked.events, now=platform.settings.now())
        return EventsCollected(
            found.accepted, found.duplicates, found.choices, dict(found.refused), dict(found.rejected)
        )

    return await platform.collecting.run(collect), ()
