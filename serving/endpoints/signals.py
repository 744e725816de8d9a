"""/v1/consent/signals: set or lift a person's Global Privacy Control."""

from __future__ import annotations

from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.endpoint import Endpoint, in_worker_pool
from aap_client.privacy import SignalRecorded, SignalRequest

__all__ = ["SIGNALS"]


def _signal(platform: Platform, asked: SignalRequest, caller: KeyInfo) -> SignalRecorded:
    now, desk = platform.settings.now(), platform.stores().desk
    platform.consent.require()
    key = platform.pseudonyms.user_key(asked.user_id)
    said_by = f"the person, by API key {caller.name!r}"
    desk.set_gpc(key, on=asked.on, said_by=said_by, indicated_at=now, received_at=now)
    return SignalRecorded(asked.signal, asked.on, desk.ledger.size())


SIGNALS = Endpoint(
    name="consent/signals",
    scope=Scope.CONSENT,
    takes=SignalRequest,
    gives=SignalRecorded,
    answered_by=in_worker_pool(lambda platform: platform.choices, _signal),
    summary="Set or lift a person's Global Privacy Control",
    description=(
        "Needs a key with the scope `consent`. While it is set, `marketing.*` and `third_party_sharing` are refused; a call "
        "with the header `Sec-GPC: 1` is answered so whatever is set."
    ),
    group="Consent and events",
    example_request={"user_id": "1", "signal": "gpc", "on": True},
    example_response=SignalRecorded("gpc", True, 29_970),
)
