"""Erasure: everything held of a person is deleted, what stops it from coming back is left, and a certificate says so.

First the tombstone and the withdrawal of every purpose, so that nothing new is learned or answered; then each place; then
what the person was a part of: item features are computed anew, and model versions trained on them are marked, so that the
next retrain replaces them. Killed in between, the same command goes on. Doing it twice does no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import redis

from aap.consent.ledger.records import Entry
from aap.consent.ledger.signing import load_signer
from aap.consent.ledger.tombstones import person_digest
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.infra.locks import hold
from aap.infra.redis.lua import is_cluster
from aap.modeling.catalog import model_classes
from aap.privacy.certificates import Erased, signed_certificate, write_certificate
from aap.privacy.data_inventory import Holdings, Place, places
from aap.privacy.errors import ErasureIncomplete
from aap.privacy.item_recompute import recompute_items

__all__ = ["METHOD", "SETTLE_S", "erase"]

METHOD = "erasure"
SETTLE_S = 3.0
"""How long a running service may keep a record in memory before it is on the disk, where it is found; and some."""
_PATIENCE_S = 30.0
_NOT_MEANWHILE = {
    "retrain": "a retrain",
    "import": "an import",
    "features": "a feature build",
    "consistency": "a consistency check",
}
"""Locks, in the order they are taken, and what holds them."""


def erase(
    held: Holdings,
    user_key: str,
    *,
    now: datetime,
    said_by: str = "the person",
    settle_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Erase one person and return the signed certificate, which is also kept.

    Raises `LockHeld` while an import, build or retrain runs, `NotYetInForce` when Redis is away, `ErasureIncomplete` when a
    place still holds something in the end: then nothing is certified.
    """
    layout = held.layout
    with ExitStack() as locks:
        for name, what in _NOT_MEANWHILE.items():
            locks.enter_context(hold(layout.run / f"{name}.lock", what=what, wait_s=_PATIENCE_S))
        every = places(held, user_key)
        before = {p.name: p.count() for p in every}
        held.tombstones.add(user_key, erased_at=now)
        _withdraw(held, user_key, said_by=said_by, now=now)
        time.sleep(SETTLE_S if settle_s is None else settle_s)
        for done, place in enumerate(every):
            place.erase()
            if progress:
                progress(done + 1, len(every) + 1)
        recomputed = recompute_items(held, now=now)
        models = _taint(held, user_key, at=now)
        _forget_on_disk(held.client)
        erased = [_counted_again(p, before=before[p.name]) for p in every]
        if progress:
            progress(len(every) + 1, len(every) + 1)
    certificate = signed_certificate(
        person_digest(user_key),
        at=now,
        places=erased,
        recomputed=recomputed,
        kept=_kept(held, user_key),
        models=models,
        controller=held.settings.controller,
        signer=load_signer(layout),
    )
    write_certificate(certificate, folder=layout.certificates, at=now)
    return certificate


def _withdraw(held: Holdings, user_key: str, *, said_by: str, now: datetime) -> None:
    """Say no to everything, also to what rests on legitimate interest; of somebody the ledger doesn't know, nothing."""
    if held.desk.ledger.history(user_key):
        entries = [Entry(user_key, p, Status.WITHDRAWN, now, said_by, METHOD) for p in Purpose]
        held.desk.record_many(entries, received_at=now)


def _taint(held: Holdings, user_key: str, *, at: datetime) -> list[dict[str, Any]]:
    """Mark every version trained on the person; returns them."""
    found = [v for name in model_classes() for v in held.registry.trained_on(name, user_key)]
    for version in found:
        held.registry.taint(version, why="a person it was trained on was erased", at=at)
    return [{"model": v.name, "version": v.version, "aliases": list(v.aliases)} for v in found]


def _counted_again(place: Place, *, before: int) -> Erased:
    after = place.count()
    if after:
        raise ErasureIncomplete(
            f"{after} items of the person are left in {place.name}: erase again, and look into it if they stay."
        )
    return Erased(place.name, place.method, before, after)


def _forget_on_disk(client: redis.Redis) -> None:
    """Have Redis write its append-only file anew: the old one still holds what was deleted."""
    if is_cluster(client):
        return  # each node is its operator's
    try:
        if client.config_get("appendonly").get("appendonly") == "yes":  # type: ignore[union-attr]
            client.bgrewriteaof()
    except redis.ResponseError:
        return  # a rewrite is on its way already, or the server is managed and doesn't let us ask


def _kept(held: Holdings, user_key: str) -> list[dict[str, str]]:
    records = len(held.desk.ledger.history(user_key))
    return [
        {
            "place": "consent ledger",
            "what": f"{records} records of what was chosen and when, under a pseudonym",
            "why": "to show that what was done was allowed (GDPR articles 7(1) and 17(3)(e))",
        },
        {
            "place": "consent projection in Redis",
            "what": "that nothing is granted, under a pseudonym",
            "why": "so that no late writer brings anything back",
        },
        {
            "place": "tombstone",
            "what": "a digest of the pseudonym",
            "why": "so that no import and no backup brings them back",
        },
    ]
