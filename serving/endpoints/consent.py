"""/v1/consent: grant or withdraw one purpose for one person."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request

from aap.consent.age_rules import check_age
from aap.consent.policy import Status
from aap.consent.purposes import Purpose, parse_purpose
from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.endpoint import Counted, Endpoint, Handler
from aap.serving.http import gpc
from aap_client.requests import ChoiceRequest
from aap_client.responses import ConsentRecorded

__all__ = ["CONSENT"]


def _choosing(request: Request) -> Handler:
    return partial(_choose, gpc_sent=gpc.is_sent(request.headers))


async def _choose(
    asked: ChoiceRequest, platform: Platform, key: KeyInfo, *, gpc_sent: bool
) -> tuple[ConsentRecorded, Sequence[Counted]]:
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


CONSENT = Endpoint(
    name="consent",
    scope=Scope.CONSENT,
    takes=ChoiceRequest,
    gives=ConsentRecorded,
    answered_by=_choosing,
    summary="Grant or withdraw one purpose for one person",
    description="Needs a key with the scope `consent`. When it answers 200, every later answer obeys the choice.",
    group="Consent and events",
    hears_gpc=True,
    example_request={"user_id": "1", "purpose": "personalize.profiled", "choice": "withdraw"},
    example_response=ConsentRecorded(Purpose.PERSONALIZE_PROFILED, "withdraw", 29_969),
)
