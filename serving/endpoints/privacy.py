"""/v1/privacy/exports and /v1/privacy/erasures: a person's rights to a copy, and to be forgotten."""

from __future__ import annotations

from typing import Any

from aap.security.api_keys import KeyInfo, Scope
from aap.serving.context import Platform
from aap.serving.endpoint import Endpoint, in_worker_pool
from aap_client.privacy import ErasureRequest, PersonRequest

__all__ = ["ERASURES", "EXPORTS"]


def _export(platform: Platform, asked: PersonRequest, caller: KeyInfo) -> dict[str, Any]:
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.export import collect  # slow to import, and seldom needed

    platform.records.flush()
    platform.exposures.flush()
    held = open_holdings(platform.settings)
    now = platform.settings.now()
    platform.audit.note("export a person", by=caller.id, outcome="done", at=now, about=[asked.user_id])
    platform.audit.flush()  # so that this read, and those of the last seconds, are in it
    return collect(held, platform.pseudonyms.user_key(asked.user_id), now=now)


def _erase(platform: Platform, asked: ErasureRequest, caller: KeyInfo) -> dict[str, Any]:
    from aap.privacy.data_inventory import open_holdings
    from aap.privacy.erasure import erase

    platform.stores()  # raises what says that Redis is down, before anything is begun
    held = open_holdings(platform.settings)
    key, now = platform.pseudonyms.user_key(asked.user_id), platform.settings.now()
    certificate = erase(held, key, now=now, said_by=f"the person, by API key {caller.name!r}")
    platform.audit.note("erase a person", by=caller.id, outcome="done", at=now)
    return certificate


# Of an export and a certificate only the first parts are shown, which are the same in each.
EXPORTS = Endpoint(
    name="privacy/exports",
    scope=Scope.PRIVACY,
    takes=PersonRequest,
    gives=dict[str, Any],
    answered_by=in_worker_pool(lambda platform: platform.rights, _export),
    summary="Everything held of one person",
    description="Needs a key with the scope `privacy`. The same as `data.json` of `aap export`.",
    group="A person's rights",
    example_request={"user_id": "1"},
    example_response={
        "format": "aap person export 1",
        "exported_at": "2018-01-01T12:00:00+00:00",
        "user_id": "1",
        "consents": [],
        "events": {},
        "predictions": [],
        "reads": [],
    },
)
ERASURES = Endpoint(
    name="privacy/erasures",
    scope=Scope.PRIVACY,
    takes=ErasureRequest,
    gives=dict[str, Any],
    answered_by=in_worker_pool(lambda platform: platform.rights, _erase),
    summary="Erase one person everywhere",
    description=(
        "Needs a key with the scope `privacy`. Takes some seconds; gives the signed certificate. Refused with 503 while an "
        "import or a retrain runs."
    ),
    group="A person's rights",
    example_request={"user_id": "1", "confirm": "erase everything"},
    example_response={
        "kind": "erasure certificate",
        "controller": "The operator of this platform",
        "erased_at": "2018-01-01T12:00:00+00:00",
        "places": [
            {"place": "event archive", "method": "files rewritten without the person", "before": 12, "after": 0}
        ],
        "models": [],
    },
)
