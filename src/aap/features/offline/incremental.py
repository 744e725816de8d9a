"""What a build has to compute: everything, or only the entities whose inputs are not what they were at the last one.

An entity's values follow from its admissible events and, for people, their grant; they reach into the future by themselves.
So at a later moment they are the same as before, unless an event came to be known or a grant began, ended or was renewed
after a break. The archive only grows: what came is in files that were not there, or in ones not wholly known at the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from aap.events.archive import Archive
from aap.features.declarations import Entity
from aap.features.engines.dialects import DUCKDB
from aap.features.offline.store import Inputs, OfflineValues, events_of, made_by
from aap.features.views import View
from aap.infra.duckdb import open_duckdb

__all__ = ["Due", "due"]


@dataclass(frozen=True, slots=True)
class Due:
    """What to compute: `entities` (string `[n]`), or everything where that is None, and then why, in one sentence."""

    entities: pa.Array | None
    why: str = ""


def due(view: View, before: OfflineValues | None, *, archive: Archive, inputs: Inputs) -> Due:
    """What to compute of `view` for `inputs`, given what was built before."""
    if before is None:
        return Due(None)
    if why := _why_everything(view, before, inputs):
        return Due(None, why)
    seen = set(before.events)
    fresh = archive.only([f for f in inputs.events if f not in seen])
    partly = archive.only([f for f in inputs.events if f in seen and f.name in before.partly])
    with open_duckdb() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("spans", inputs.spans)
        connection.register("spans_before", before.rows_of(before.spans))
        connection.execute(
            "CREATE TEMP TABLE changed AS SELECT coalesce(n.k, b.user_key) AS k FROM spans n "
            "FULL JOIN spans_before b ON n.k = b.user_key WHERE n.start IS DISTINCT FROM b.start"
        )
        queries = (
            ["SELECT k FROM changed"] if view.entity is Entity.USER else _items_of_changed(view, archive, connection)
        )
        for event in events_of(view):
            queries.append(_entities(view, fresh.sql(event, on=connection), known_at=inputs.as_of))
            queries.append(
                _entities(view, partly.sql(event, on=connection), known_at=inputs.as_of, not_at=before.as_of)
            )
        found = connection.execute(" UNION ".join(queries)).to_arrow_table()
    return Due(found.column(0).combine_chunks().cast(pa.string()))


def _why_everything(view: View, before: OfflineValues, inputs: Inputs) -> str:
    now = made_by(view)
    if changed := [what for what in now if before.made_by.get(what) != now[what]]:
        return f"Built anew: the {' and the '.join(changed)} changed since the last build."
    if inputs.as_of < before.as_of:
        return f"Built anew: the last build is as of {before.as_of:%Y-%m-%d %H:%M}, later than this one."
    if not set(before.events) <= set(inputs.events):
        return "Built anew: files of the archive were replaced or removed since the last build."
    if not before.whole():
        return "Built anew: files of the last build are missing or damaged."
    return ""


def _items_of_changed(view: View, archive: Archive, connection: duckdb.DuckDBPyConnection) -> list[str]:
    """An item counts the people behind its events, so all items of people whose grant changed."""
    if not connection.execute("SELECT count(*) FROM changed").fetchall()[0][0]:
        return []
    return [
        f"SELECT e.item_id AS k FROM {archive.sql(event, on=connection)} e SEMI JOIN changed ON changed.k = e.user_key"
        for event in events_of(view)
    ]


def _entities(view: View, events: str, *, known_at: datetime, not_at: datetime | None = None) -> str:
    """Whose events those are that count and are known at one moment (but were not at another)."""
    known = f"greatest(e.available_at, e.occurred_at) <= {DUCKDB.instant(known_at)}"
    new = f" AND NOT greatest(e.available_at, e.occurred_at) <= {DUCKDB.instant(not_at)}" if not_at else ""
    return (
        f"SELECT e.{view.key} AS k FROM {events} e JOIN spans ON spans.k = e.user_key "
        f"AND {DUCKDB.micros('e.occurred_at')} >= spans.start WHERE {known}{new}"
    )
