"""The privacy endpoints: receipts and the Global Privacy Control (scope `consent`), export and erasure (scope `privacy`).

They are handed to `serving.app`, which authenticates, answers and counts for them as for every other endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from consent.receipts import make_receipts
from consent.signing import load_signer
from security.api_keys import KeyInfo, Scope
from serving.platform import Platform
from serving.privacy_requests import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest

__all__ = ["privacy_calls"]

Handler = Callable[[Any, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Any]]]]


def privacy_calls() -> tuple[tuple[str, Scope, type[Any], Handler], ...]:
    """Path below /v1, scope, what it takes, and handler of each."""
    return (
        ("consent/receipts", Scope.CONSENT, PersonRequest, _handler(_receipts, slow=False)),
        ("consent/signals", Scope.CONSENT, SignalRequest, _handler(_signal, slow=False)),
        ("privacy/exports", Scope.PRIVACY, PersonRequest, _handler(_export, slow=True)),
        ("privacy/erasures", Scope.PRIVACY, ErasureRequest, _handler(_erase, slow=True)),
    )


def _handler(answer: Callable[[Platform, Any, KeyInfo], Any], *, slow: bool) -> Handler:
    async def handle(asked: Any, platform: Platform, key: KeyInfo) -> tuple[Any, Sequence[Any]]:
        room = platform.rights if slow else platform.choices
        return await room.run(partial(answer, platform, asked, key)), ()

    return handle


def _receipts(platform: Platform, asked: PersonRequest, caller: KeyInfo) -> Receipts:
    signer = load_signer(platform.layout)
    key, ledger = platform.pseudonyms.user_key(asked.user_id), platform.stores().desk.ledger
    made = make_receipts(ledger, key, signer=signer, controller=platform.settings.controller)
    at = platform.settings.now()
    platform.audit.note("hand out a person's receipts", by=caller.id, outcome="done", at=at, about=[asked.user_id])
    return Receipts(made, signer.public.pem)


def _signal(platform: Platform, asked: SignalRequest, caller: KeyInfo) -> SignalRecorded:
    now, desk = platform.settings.now(), platform.stores().desk
    platform.consent.require()
    key = platform.pseudonyms.user_key(asked.user_id)
    said_by = f"the person, by API key {caller.name!r}"
    desk.set_gpc(key, on=asked.on, said_by=said_by, indicated_at=now, received_at=now)
    return SignalRecorded(asked.signal, asked.on, desk.ledger.size())


def _export(platform: Platform, asked: PersonRequest, caller: KeyInfo) -> dict[str, Any]:
    from privacy.export import collect  # slow to import, and seldom needed
    from privacy.holdings import open_holdings

    platform.records.flush()
    platform.exposures.flush()
    held = open_holdings(platform.settings)
    now = platform.settings.now()
    platform.audit.note("export a person", by=caller.id, outcome="done", at=now, about=[asked.user_id])
    platform.audit.flush()  # so that this read, and those of the last seconds, are in it
    return collect(held, platform.pseudonyms.user_key(asked.user_id), now=now)


def _erase(platform: Platform, asked: ErasureRequest, caller: KeyInfo) -> dict[str, Any]:
    from privacy.erase import erase
    from privacy.holdings import open_holdings

    platform.stores()  # raises what says that Redis is down, before anything is begun
    held = open_holdings(platform.settings)
    key, now = platform.pseudonyms.user_key(asked.user_id), platform.settings.now()
    certificate = erase(held, key, now=now, said_by=f"the person, by API key {caller.name!r}")
    platform.audit.note("erase a person", by=caller.id, outcome="done", at=now)
    return certificate
