"""/v1/consent/receipts: a receipt for each choice of one person."""

from __future__ import annotations

from aap.consent.ledger.receipts import make_receipts
from aap.consent.ledger.signing import load_signer
from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.endpoint import Endpoint, in_worker_pool
from aap_client.privacy import PersonRequest, Receipts

__all__ = ["RECEIPTS"]


def _receipts(platform: Platform, asked: PersonRequest, caller: KeyInfo) -> Receipts:
    signer = load_signer(platform.layout)
    key, ledger = platform.pseudonyms.user_key(asked.user_id), platform.stores().desk.ledger
    made = make_receipts(ledger, key, signer=signer, controller=platform.settings.controller)
    at = platform.settings.now()
    platform.audit.note("hand out a person's receipts", by=caller.id, outcome="done", at=at, about=[asked.user_id])
    return Receipts(made, signer.public.pem)


_RECEIPT = {
    "receipt_metadata": {
        "schema_version": "https://w3id.org/dpv/schema/iso-27560#receipt",
        "receipt_id": "ledger-29969",
    }
}
"""Only the first part, which is the same in each."""

RECEIPTS = Endpoint(
    name="consent/receipts",
    scope=Scope.CONSENT,
    takes=PersonRequest,
    gives=Receipts,
    answered_by=in_worker_pool(lambda platform: platform.choices, _receipts),
    summary="A receipt for each choice of one person",
    description=(
        "Needs a key with the scope `consent`. Each can be checked offline with the public key (ISO/IEC TS 27560:2023)."
    ),
    group="Consent and events",
    example_request={"user_id": "1"},
    example_response=Receipts([_RECEIPT], "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n"),
)
