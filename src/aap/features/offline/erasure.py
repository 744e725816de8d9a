"""Forgetting one person in the offline values: no file knows them afterwards, not even those of the build before.

Views of people lose their rows; views of items, which count people, are computed anew from the archive, which has to be
without them by then. What can't be carried on, because it is damaged or was made by other declarations, is deleted
whole. The next build makes it, and goes on from all the rest as if the person had never been there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.errors import DamagedValues, FeaturesNotBuilt
from aap.features.offline.build import Standing, build_one
from aap.features.offline.store import RECORD, OfflineValues, built_view
from aap.features.offline.writer import forget_before, without
from aap.features.views import View, all_views
from aap.infra.object_store import Folder, StoredFile

__all__ = ["forget", "recompute"]


def forget(folder: Folder, user_key: str, *, rewritten: Mapping[StoredFile, StoredFile]) -> None:
    """Take a person out of every view of people; `rewritten` is what `Archive.erase` told, or nothing if that is lost.

    Without it the next build computes everything. No build may run meanwhile.
    """
    for view in all_views():
        if view.entity is Entity.USER and (values := _usable(folder, view)):
            without(values, user_key, rewritten=rewritten)
    _clear_undeclared(folder)


def recompute(
    folder: Folder, *, archive: Archive, standing: Standing, then: Callable[[View, datetime], None] | None = None
) -> list[str]:
    """Compute every view of items anew, as of its last build, from the archive and the consent as they are.

    `then` is called with each view and that moment. Returns the views' names; one that was never built has nothing to
    recompute.
    """
    done = []
    for view in all_views():
        if view.entity is Entity.ITEM and (before := _usable(folder, view)):
            build_one(view, archive=archive, folder=folder, standing=standing, as_of=before.as_of, anew=True)
            forget_before(built_view(folder, view))
            done.append(view.name)
            if then:
                then(view, before.as_of)
    return done


def _usable(folder: Folder, view: View) -> OfflineValues | None:
    """What was built of the view; where that can't be carried on, nothing is left of it."""
    try:
        return built_view(folder, view)
    except (FeaturesNotBuilt, DamagedValues):
        (folder / view.name).clear()
        return None


def _clear_undeclared(folder: Folder) -> None:
    """Delete what was built of views that are not declared any more."""
    declared = {view.name for view in all_views()}
    for name in {f.name.partition("/")[0] for f in (*folder.files(), *folder.files(suffix=RECORD))} - declared:
        (folder / name).clear()
