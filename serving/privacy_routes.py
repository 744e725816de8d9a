"""The privacy endpoints: receipts and the Global Privacy Control (scope `consent`), export and erasure (scope `privacy`).

They are handed to `serving.app`, which authenticates, answers and counts for them as for every other endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consent.receipts import make_receipts
from consent.signing import load_signer
from security.api_keys import KeyInfo, Scope
from serving.platform import Platform
from serving.privacy_requests import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest

__all__ = ["PRIVACY_CALLS"]


def _receipts(platform: Platform, _caller: KeyInfo, asked: PersonRequest) -> Receipts:
    signer = load_signer(platform.layout)
    key, ledger = platform.pseudonyms.user_key(asked.user_id), platform.stores().desk.ledger
    made = make_receipts(ledger, key, signer=signer, controller=platform.settings.controller)
    return Receipts(made, signer.public.pem)


def _signal(platform: Platform, caller: KeyInfo, asked: SignalRequest) -> SignalRecorded:
    now, desk = platform.settings.now(), platform.stores().desk
    key = platform.pseudonyms.user_key(asked.user_id)
    said_by = f"the person, by API key {caller.name!r}"
    desk.set_gpc(key, on=asked.on, said_by=said_by, indicated_at=now, received_at=now)
    platform.audit.note(f"{'set' if asked.on else 'lift'} {asked.signal}", by=caller.id, outcome="done", at=now)
    return SignalRecorded(asked.signal, asked.on, desk.ledger.size())


def _export(platform: Platform, caller: KeyInfo, asked: PersonRequest) -> dict[str, Any]:
    from privacy.export import collect  # slow to import, and seldom needed
    from privacy.holdings import open_holdings

    platform.records.flush()
    platform.exposures.flush()
    held = open_holdings(platform.settings)
    now = platform.settings.now()
    told = collect(held, platform.pseudonyms.user_key(asked.user_id), now=now)
    platform.audit.note("export a person", by=caller.id, outcome="done", at=now)
    return told


def _erase(platform: Platform, caller: KeyInfo, asked: ErasureRequest) -> dict[str, Any]:
    from privacy.erase import erase
    from privacy.holdings import open_holdings

    platform.stores()  # raises what says that Redis is down, before anything is begun
    held = open_holdings(platform.settings)
    key, now = platform.pseudonyms.user_key(asked.user_id), platform.settings.now()
    certificate = erase(held, key, now=now, said_by=f"the person, by API key {caller.name!r}")
    platform.audit.note("erase a person", by=caller.id, outcome="done", at=now)
    return certificate


PRIVACY_CALLS: tuple[tuple[str, Scope, type[Any], Callable[[Platform, KeyInfo, Any], Any]], ...] = (
    ("consent/receipts", Scope.CONSENT, PersonRequest, _receipts),
    ("consent/signals", Scope.CONSENT, SignalRequest, _signal),
    ("privacy/exports", Scope.PRIVACY, PersonRequest, _export),
    ("privacy/erasures", Scope.PRIVACY, ErasureRequest, _erase),
)
"""Path below /v1, scope, what is taken, and what answers it: each is called in a thread."""
