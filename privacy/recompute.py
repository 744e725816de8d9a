"""Recomputing what a person was a part of: the features of items, which count people."""

from __future__ import annotations

from datetime import datetime

import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo import online
from feature_repo.build import build_one, view_file
from feature_repo.declare import Entity
from feature_repo.latest import latest_items
from feature_repo.views import View, all_views
from privacy.holdings import Holdings

__all__ = ["recompute_items"]


def recompute_items(held: Holdings, *, now: datetime) -> list[str]:
    """Compute every view of items anew from the archive as it is, as of its last build, offline and online.

    Returns the views' names; a view that was never built has nothing to recompute.
    """
    return [
        view.name
        for view in all_views()
        if view.entity is Entity.ITEM
        and view_file(held.layout.features, view).is_file()
        and _recompute(held, view, now=now)
    ]


def _recompute(held: Holdings, view: View, *, now: datetime) -> bool:
    folder = held.layout.features
    file = view_file(folder, view)
    before = set(pc.unique(pq.read_table(file, columns=[view.key])[view.key]).to_pylist())
    as_of = datetime.fromisoformat((pq.read_schema(file).metadata or {})[b"aap.as_of"].decode())
    standing = held.desk.ledger.standing(in_force_at=now)
    build_one(view, archive=held.archive, folder=folder, standing=standing, as_of=as_of)
    left = dict(latest_items(view, folder=folder, as_of=as_of))
    online.write_items(held.client, view, left.items())
    for item_id in before - set(left):
        held.client.delete(online.item_key(item_id, view.purpose))
    return True
