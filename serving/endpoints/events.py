"""/v1/events: take in what happened."""

from __future__ import annotations

from collections.abc import Sequence

from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.endpoint import Counted, Endpoint
from aap_client.requests import EventsRequest
from aap_client.responses import EventsCollected

__all__ = ["EVENTS"]


async def _collect(
    asked: EventsRequest, platform: Platform, _key: KeyInfo
) -> tuple[EventsCollected, Sequence[Counted]]:
    def collect() -> EventsCollected:
        collector = platform.stores().collector
        platform.consent.require()
        found = collector.collect(asked.events, now=platform.settings.now())
        return EventsCollected(
            found.accepted, found.duplicates, found.choices, dict(found.refused), dict(found.rejected)
        )

    return await platform.collecting.run(collect), ()


EVENTS = Endpoint(
    name="events",
    scope=Scope.COLLECT,
    takes=EventsRequest,
    gives=EventsCollected,
    answered_by=lambda _: _collect,
    summary="Take in what happened",
    description="Needs a key with the scope `collect`. What consent doesn't cover is counted and kept nowhere.",
    group="Consent and events",
    example_request={
        "events": [
            {
                "source": "web",
                "id": "7f3a",
                "type": "product_viewed",
                "user_id": "1",
                "occurred_at": "2018-01-01T12:00:00Z",
                "properties": {"item_id": "1082185"},
            }
        ]
    },
    example_response=EventsCollected(accepted=0, duplicates=0, choices=0, refused={"no_record": 1}, rejected={}),
)
