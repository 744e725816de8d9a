"""The privacy endpoints: receipts and the Global Privacy Control (scope `consent`), export and erasure (scope `privacy`).

They are handed to `serving.app`, which authenticates, answers and counts for them as for every other endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request

from consent.receipts import make_receipts
from consent.signing import load_signer
from security.api_keys import KeyInfo, Scope
from serving.platform import Platform
from serving.privacy_requests import ErasureRequest, PersonRequest, Receipts, SignalRecorded, SignalRequest

__all__ = ["privacy_calls"]

Body = Callable[[Request, Platform, type[Any]], Awaitable[Any]]
Handler = Callable[[Request, Platform, KeyInfo], Awaitable[tuple[Any, Sequence[Any]]]]


def privacy_calls(body: Body) -> tuple[tuple[str, Handler, Scope], ...]:
    """Path below /v1, handler and scope of each; `body` reads a request's."""

    async def receipts(request: Request, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Any]]:
        asked = await body(request, platform, PersonRequest)
        return await run_sync(_receipts, platform, asked.user_id), ()

    async def signals(request: Request, platform: Platform, key: KeyInfo) -> tuple[Any, Sequence[Any]]:
        asked = await body(request, platform, SignalRequest)
        return await run_sync(_signal, platform, asked, key.name), ()

    async def exports(request: Request, platform: Platform, _key: KeyInfo) -> tuple[Any, Sequence[Any]]:
        asked = await body(request, platform, PersonRequest)
        return await run_sync(_export, platform, asked.user_id), ()

    async def erasures(request: Request, platform: Platform, key: KeyInfo) -> tuple[Any, Sequence[Any]]:
        asked = await body(request, platform, ErasureRequest)
        return await run_sync(_erase, platform, asked.user_id, key.name), ()

    return (
        ("consent/receipts", receipts, Scope.CONSENT),
        ("consent/signals", signals, Scope.CONSENT),
        ("privacy/exports", exports, Scope.PRIVACY),
        ("privacy/erasures", erasures, Scope.PRIVACY),
    )


def _receipts(platform: Platform, user_id: str) -> Receipts:
    signer = load_signer(platform.layout)
    key, ledger = platform.pseudonyms.user_key(user_id), platform.stores().desk.ledger
    made = make_receipts(ledger, key, signer=signer, controller=platform.settings.controller)
    return Receipts(made, signer.public.pem)


def _signal(platform: Platform, asked: SignalRequest, caller: str) -> SignalRecorded:
    now, desk = platform.settings.now(), platform.stores().desk
    key = platform.pseudonyms.user_key(asked.user_id)
    said_by = f"the person, by API key {caller!r}"
    desk.set_gpc(key, on=asked.on, said_by=said_by, indicated_at=now, received_at=now)
    return SignalRecorded(asked.signal, asked.on, desk.ledger.size())


def _export(platform: Platform, user_id: str) -> dict[str, Any]:
    from privacy.export import collect  # slow to import, and seldom needed
    from privacy.holdings import open_holdings

    platform.records.flush()
    platform.exposures.flush()
    held = open_holdings(platform.settings)
    return collect(held, platform.pseudonyms.user_key(user_id), now=platform.settings.now())


def _erase(platform: Platform, user_id: str, caller: str) -> dict[str, Any]:
    from privacy.erase import erase
    from privacy.holdings import open_holdings

    platform.stores()  # raises what says that Redis is down, before anything is begun
    held = open_holdings(platform.settings)
    key, now = platform.pseudonyms.user_key(user_id), platform.settings.now()
    return erase(held, key, now=now, said_by=f"the person, by API key {caller!r}")
