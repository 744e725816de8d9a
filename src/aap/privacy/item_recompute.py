"""Recomputing what a person was a part of: the features of items, which count people."""

from __future__ import annotations

from datetime import datetime

from aap.features.declarations import Entity
from aap.features.offline.erasure import recompute
from aap.features.offline.store import last_build
from aap.features.online import reader
from aap.features.online.materialize import latest_items
from aap.features.views import View, all_views
from aap.privacy.data_inventory import Holdings

__all__ = ["recompute_items"]


def recompute_items(held: Holdings, *, now: datetime) -> list[str]:
    """Compute every view of items anew from the archive as it is, as of its last build, offline and online.

    Returns the views' names.
    """
    before = {view.name: _items(held, view) for view in all_views() if view.entity is Entity.ITEM}

    def bring_online(view: View, as_of: datetime) -> None:
        left = dict(latest_items(view, folder=held.features, as_of=as_of))
        reader.write_items(held.client, view, left.items())
        for item_id in before[view.name] - set(left):
            held.client.delete(reader.item_key(item_id, view.purpose))

    standing = held.desk.ledger.standing(in_force_at=now)
    return recompute(held.features, archive=held.archive, standing=standing, then=bring_online)


def _items(held: Holdings, view: View) -> set[str]:
    """The items the last build knew."""
    built = last_build(held.features, view)
    if built is None or not built.whole():
        return set()
    return {key for piece in built.pieces for key in built.rows_of(piece)[view.key].to_pylist()}
