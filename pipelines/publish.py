"""Publishing features: build them from the archive, register them with Feast, bring them online."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from consent.choices import open_desk
from events.archive import Archive
from feature_repo.build import Built, build
from feature_repo.live_fold import live_plans
from feature_repo.live_rows import refresh
from feature_repo.online import to_micros
from feature_repo.store import apply, materialize
from settings.config import Settings
from storage.layout import Layout
from storage.locks import hold
from storage.redis_server import connect

__all__ = ["bring_online", "build_features"]


def build_features(
    settings: Settings, *, as_of: datetime, progress: Callable[[str, int, int], None] | None = None
) -> list[Built]:
    """Compute every view as known at `as_of`, and register it. One build at a time; a second raises `LockHeld`."""
    layout = Layout(settings.home)
    with hold(layout.run / "features.lock", what="a feature build"):
        desk = open_desk(settings)
        made = build(
            archive=Archive(layout.archive),
            folder=layout.features,
            standing=desk.ledger.standing(),
            as_of=as_of,
            progress=progress,
        )
        apply(settings)
    return made


def bring_online(settings: Settings, *, as_of: datetime) -> None:
    """Project consent, then materialize every view as of `as_of`; readers see both from then on.

    People whose features are live keep their own row, which knows events that no build has seen; it is renewed.
    """
    desk = open_desk(settings)
    desk.catch_up(now=as_of)
    materialize(settings, as_of=as_of)
    people, client = list(desk.ledger.standing()), connect(settings)
    for plan in live_plans().values():
        refresh(client, plan, people, now=to_micros(as_of))
