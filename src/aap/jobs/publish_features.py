"""Publishing features: build them from the archive, register them with Feast, bring them online."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aap.config import Settings
from aap.consent.service import open_desk
from aap.events.archive import Archive
from aap.features.engines import batch_engine
from aap.features.feast.store import apply, materialize
from aap.features.offline.build import Built, build, built_as_of
from aap.infra.locks import hold
from aap.infra.object_store import archive_folder, features_folder
from aap.infra.paths import Layout
from aap.jobs.ingest import archive_live_events

__all__ = ["bring_online", "build_features"]


def build_features(
    settings: Settings,
    *,
    as_of: datetime,
    engine: str = "",
    anew: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Built]:
    """Compute every view as known at `as_of`, and register it. One build at a time; a second raises `LockHeld`.

    What the live log has accepted by now is archived first, so nothing that live features know by `as_of` is missing.

    `engine` is `duckdb` or `spark`; by default, what the settings say. `anew` computes everything, whatever there is.
    """
    layout = Layout(settings.home)
    with hold(layout.run / "features.lock", what="a feature build"):
        archive_live_events(settings, now=settings.now())
        desk = open_desk(settings)
        made = build(
            archive=Archive(archive_folder(settings)),
            folder=features_folder(settings),
            standing=desk.ledger.standing(in_force_at=settings.now()),
            as_of=as_of,
            engine=batch_engine(settings, name=engine),
            anew=anew,
            progress=progress,
        )
        apply(settings)
    return made


def bring_online(settings: Settings, *, as_of: datetime) -> None:
    """Project consent, then materialize every view; readers see both from then on.

    Rows are as of `as_of`, or of the build if that was before: the newest row wins, so a live row that knows more than the
    build stays, and one that knows less gives way.
    """
    open_desk(settings).catch_up(now=settings.now())
    materialize(settings, as_of=min(as_of, built_as_of(features_folder(settings))))
